"""`bireme.Pool`: the interface of `multiprocessing.Pool` on bireme's kernel."""

from __future__ import annotations

import sys
import weakref

from bireme import _checks, _core
from bireme._births import (
    Forker,
    birth_place,
    register,
    start_method_of,
    warn_of_threads,
)
from bireme._boot import Boot
from bireme._remote import Remote, keep_spare, resource_error
from bireme._result import AsyncResult
from bireme._submit import (
    check_options,
    check_seed,
    finish,
    run_map,
    start_imap,
    submit_call,
    submit_map,
)
from bireme.errors import ForkedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Any, Self

    from bireme._imap import ItemIterator

__all__ = ["AsyncResult", "Pool", "PoolView"]

_MEMORY_SHARE = 0.5  # of what is available when the pool is made
_LEAST_MEMORY = 1 << 20  # what the caller, and each worker, takes at a time
_MOST_WORKERS = 4096
_numbers = iter(range(1, sys.maxsize))


class Pool:
    """A pool of worker processes.

    A drop-in for `multiprocessing.Pool` that survives its workers, moves arrays through
    shared memory, and takes lambdas, closures and functions typed at a prompt.

    Parameters
    ----------
    processes : int, optional
        Number of workers; by default the cores that this process may use (affinity, cgroup).
    initializer : callable, optional
        Called once in each worker before its first task. If it raises, the pool is broken
        and every call raises `InitializerError`.
    initargs : tuple
        Its arguments. Locks, queues, pipes and shared values of `multiprocessing` may be
        among them. With ``"fork"`` they are inherited, not pickled.
    maxtasksperchild : int, optional
        Chunks after which a worker is replaced by a fresh one.
    context : optional
        A `multiprocessing` context or the name of a start method; as ``start_method``.
    start_method : {"template", "fork", "spawn", "forkserver"}, optional
        Where workers come from. The default, ``"template"``, forks them from a clean
        process of bireme's own; it needs no ``if __name__ == "__main__"`` guard. The others
        mean what they mean in `multiprocessing`. Left out, it is ``"fork"`` for a pool whose
        initializer is given a lock, queue or the like of a fork context.
    preload : sequence of str
        Modules that the template imports once, by this process's `sys.path`, before workers are
        forked from it. If one cannot be imported or starts threads, every call raises
        `InitializerError`.
    name : str, optional
        Shown in the workers' process titles, ``bireme:NUMBER:NAME``.
    seed : int, optional
        Default for ``seed`` of each call: every item gets random streams of its own.
    forward_output : bool
        Whether what workers print comes through this process's `sys.stdout` and `sys.stderr`.
    max_pending : int
        Tasks that may wait; a submission beyond it waits until some have ended.
    object_memory : int, optional
        Bytes of shared memory that arguments and results in flight may take; by default half
        of the memory that is available when the pool is made. At least 1 MiB for the caller
        and for each worker.

    Raises
    ------
    ValueError, TypeError
        For an argument that makes no sense.
    PicklingError
        If the initializer or its arguments cannot travel.
    ResourceLimitError
        If the system has no process, descriptor or memory to give.

    Notes
    -----
    Any thread may use a pool; a forked child of its owner may not (`ForkedError`).

    A pool that is alive at interpreter exit is terminated. So is one that is dropped, unless
    somebody holds a result of it (an `AsyncResult`, or what has a callback) that is still to
    come: then it is closed, its tasks run to their end, and once nobody holds such a result any
    more it is terminated.

    Examples
    --------
    >>> import bireme
    >>> with bireme.Pool(2) as pool:
    ...     pool.map(lambda x: x * x, range(5))
    [0, 1, 4, 9, 16]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] | None = (),
        maxtasksperchild: Any = None,
        context: Any = None,
        *,
        start_method: str | None = None,
        preload: Sequence[str] = (),
        name: str | None = None,
        seed: int | None = None,
        forward_output: bool = True,
        max_pending: int = 1_000_000,
        object_memory: int | None = None,
    ) -> None:
        self._client: _core.Client | None = None
        self.processes = worker_count(processes)
        _checks.function("initializer", initializer, optional=True)
        if initargs is not None or initializer is not None:  # as the standard one does
            _checks.items("initargs", initargs)
        if maxtasksperchild is not None and (
            not isinstance(maxtasksperchild, int) or not 0 < maxtasksperchild < 2**32
        ):  # a ValueError whatever it is, as the standard one gives
            _checks.refuse(
                ValueError, "maxtasksperchild", "a positive int or None", maxtasksperchild
            )
        memory_limit = _budget(object_memory, self.processes)
        max_pending = _checks.whole("max_pending", max_pending, 1)
        forward_output = _checks.flag("forward_output", forward_output)
        if name is not None:
            _checks.text("name", name)
        self.name = name or f"pool-{next(_numbers)}"
        self._seed = None if seed is None else check_seed(seed)
        self._direct: _core.Client | None = None  # who takes plain calls as they are
        self._order = 0  # submissions so far: the index that seeds an `apply`
        self._closing = False
        self._feeds: weakref.WeakSet[ItemIterator] = weakref.WeakSet()
        self._kept: set[ItemIterator] = set()  # those of these that nobody else has
        boot = Boot(
            self.name,
            self.processes,
            start_method_of(start_method, context),
            initializer,
            () if initargs is None else tuple(initargs),
            forward_output,
        )
        self.start_method = boot.start_method
        self._heritage, self._forker = boot.heritage, Forker(boot.heritage, boot.names)
        prepares = initializer is not None or self.start_method in ("spawn", "forkserver")
        start, command = birth_place(self.start_method, preload)
        faces = Remote(boot.encoder, self._forker, prepares, bool(preload))
        try:
            keep_spare()
            if self.start_method == "fork":
                warn_of_threads()
            self._client = _core.Client(
                faces,
                boot.encoder,
                self.processes,
                start,
                command,
                boot.content,
                boot.fds,
                maxtasksperchild or 0,
                forward_output,
                max_pending,
                memory_limit,
            )
        except OSError as error:
            raise resource_error(f"the pool cannot be started: {error}") from error
        if self._seed is None:
            self._direct = self._client
        register(self)
        if start == "caller":
            self._forker(self._client)

    # Calls -----------------------------------------------------------------------------

    def _open(self) -> _core.Client:
        if self._closing or self._client is None:
            raise ValueError("Pool not running")
        return self._client

    def _next_index(self, seed: int | None) -> int:
        if seed is None:
            return 0
        self._order += 1
        return self._order - 1

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] = {},  # noqa: B006  (the standard signature; never changed)
    ) -> Any:
        """Call ``func(*args, **kwds)`` in a worker and wait for the result."""
        return finish(self.apply_async(func, args, kwds))

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] = {},  # noqa: B006  (the standard signature; never changed)
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """Call ``func(*args, **kwds)`` in a worker; give its `AsyncResult` at once.

        Parameters
        ----------
        func, args, kwds
            The call. Arguments are private to the task and writable there.
        callback, error_callback : callable, optional
            Called with the result or the exception, in a thread of the pool, before the
            result counts as ready.

        Raises
        ------
        ValueError
            After `close` or `terminate`.
        PicklingError
            If the function or an argument cannot travel; nothing was submitted.
        """
        client = self._direct
        if (
            client is not None
            and callback is None
            and error_callback is None
            and args.__class__ is tuple
            and kwds.__class__ is dict
        ):
            return client.apply(AsyncResult, func, args, kwds)  # type: ignore[no-any-return]
        return submit_call(self, func, args, kwds, callback, error_callback, {})

    def map(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        **options: Any,
    ) -> list[Any]:
        """Call ``func`` on each item in the workers; give the results in order.

        Parameters
        ----------
        func : callable
            Takes one item.
        iterable : iterable
            The items. A `range` and contiguous NumPy arrays travel as descriptions and slices.
        chunksize : int, optional
            Items a worker takes at a time, honoured exactly. By default the map schedules
            itself: large chunks first, the rest shared among idle workers.
        **options
            ``task_timeout`` (seconds an item may run), ``retries`` (attempts more after a
            worker's death), ``retry_on`` (exceptions that these attempts are for, too), ``seed``,
            ``progress`` (a tqdm bar), ``name`` (what errors call it by).

        Raises
        ------
        Exception
            What the item of the lowest index raised, after all others have run.
        """
        return run_map(self, func, iterable, chunksize, False, options)

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Any,
    ) -> AsyncResult:
        """As `map`, but give an `AsyncResult` at once."""
        return submit_map(self, func, iterable, chunksize, False, options, callback, error_callback)

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        **options: Any,
    ) -> list[Any]:
        """As `map` with ``func(*item)``."""
        return run_map(self, func, iterable, chunksize, True, options)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Any,
    ) -> AsyncResult:
        """As `starmap`, but give an `AsyncResult` at once."""
        return submit_map(self, func, iterable, chunksize, True, options, callback, error_callback)

    def imap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        **options: Any,
    ) -> ItemIterator:
        """As `map`, lazily: give an iterator over the results, in order.

        The input is read only so far ahead, so an endless generator is fine. A list, an array and
        the like are read as results are taken; anything else in a thread that lives while it reads,
        so the input may be slow, or wait for what you do with the results. After an item that
        raised, the iterator goes on. One that is dropped reads no more; if no result was ever
        asked for, all items run all the same.

        Parameters
        ----------
        func, iterable
            As for `map`.
        chunksize : int
            Items a worker takes at a time.
        buffersize : int, optional
            Items read and not yet given; by default four chunks a worker.
        **options
            As for `map`.
        """
        return start_imap(self, func, iterable, chunksize, buffersize, True, options)

    def imap_unordered(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        **options: Any,
    ) -> ItemIterator:
        """As `imap`, giving results as they come."""
        return start_imap(self, func, iterable, chunksize, buffersize, False, options)

    def options(self, **options: Any) -> PoolView:
        """Give a view of this pool whose calls have these options.

        Parameters
        ----------
        **options
            ``task_timeout``, ``retries``, ``retry_on`` and ``seed`` as for `map`; ``name`` is
            what errors call the task by, instead of its function's name.
        """
        return PoolView(self, check_options(options))

    # Life ------------------------------------------------------------------------------

    def close(self) -> None:
        """Accept no more calls; the workers leave when everything submitted has run."""
        self._check_owner()
        self._accept_no_more()
        self._close_if_fed()

    def _accept_no_more(self) -> None:
        self._closing, self._direct = True, None

    def _check_owner(self) -> None:
        if self._client is not None:
            self._client.check_owner()

    def _close_if_fed(self) -> None:
        if (
            self._closing
            and self._client is not None
            and not any(feed.feeding for feed in self._feeds)
        ):
            self._client.close()

    def terminate(self) -> None:
        """End the workers now. What has not ended raises `CancelledError`."""
        self._check_owner()
        self._accept_no_more()
        for feed in list(self._feeds):
            feed.terminate()
        if self._client is not None:
            self._client.terminate()

    def join(self) -> None:
        """Wait until all workers are gone.

        Raises
        ------
        ValueError
            If neither `close` nor `terminate` was called before.
        """
        self._check_owner()
        if not self._closing:
            raise ValueError("Pool is still running")
        assert self._client is not None
        for feed in list(self._feeds):
            feed.feed_all()
        self._close_if_fed()
        while not self._client.wait_finished(0.05):
            pass

    def __enter__(self) -> Self:
        self._open().check_owner()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            self.terminate()
        except ForkedError:
            return  # a forked child leaves the block: the pool is not its to end
        self._join_quietly()

    def _join_quietly(self) -> None:
        client = self._client
        while client is not None and not client.wait_finished(0.05):
            pass

    def __del__(self) -> None:
        client = getattr(self, "_client", None)
        if client is None or sys.is_finalizing() or client.finished():
            return
        if not self._closing:
            import warnings

            text = f"unclosed running multiprocessing pool {self!r}"
            warnings.warn(text, ResourceWarning, stacklevel=2, source=self)
        client.let_go()
        if client.outstanding():
            self._forker.outlive_pool(self._heritage)

    def __repr__(self) -> str:
        if getattr(self, "_client", None) is None:
            return f"<bireme.{type(self).__name__}, not started>"
        state = "closed" if self._closing else "running"
        return f"<bireme.Pool {self.name!r} {state} processes={self.processes} start_method={self.start_method!r}>"

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    # Figures ---------------------------------------------------------------------------

    def worker_pids(self) -> list[int]:
        """Process ids of the live workers.

        They are born while the caller goes on: just after the pool was made there may be none yet.
        """
        return [] if self._client is None else self._client.worker_pids()

    def statistics(self) -> dict[str, Any]:
        """Figures since the start.

        Returns
        -------
        dict
            ``tasks`` (chunks and single calls that ended), ``items``, ``busy_s`` (seconds in
            tasks, summed over workers), ``bytes_sent`` (arguments and functions, each counted
            once however many tasks read it), ``bytes_received``, ``arena_bytes`` (shared memory
            held, used or warm), ``argument_blocks`` (blocks still seen by a
            worker or a pending task), ``births``, ``deaths``, ``retried``, ``birth_ms`` (of the
            last worker: from order to ready), ``outstanding``, ``workers``.
        """
        assert self._client is not None
        return {**self._client.statistics(), "workers": len(self.worker_pids())}


class PoolView:
    """A pool with options for its calls; made by `Pool.options`."""

    def __init__(self, pool: Pool, options: dict[str, Any]) -> None:
        self._pool = pool
        self._options = options

    def options(self, **options: Any) -> PoolView:
        """Give a view with more options."""
        return PoolView(self._pool, {**self._options, **check_options(options)})

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] = {},  # noqa: B006  (the standard signature; never changed)
    ) -> Any:
        """As `Pool.apply`."""
        return finish(self.apply_async(func, args, kwds))

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] = {},  # noqa: B006
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """As `Pool.apply_async`."""
        return submit_call(self._pool, func, args, kwds, callback, error_callback, self._options)

    def __getattr__(self, name: str) -> Any:
        if name not in ("map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered"):
            raise AttributeError(f"a view of a pool has no attribute {name!r}")
        method = getattr(self._pool, name)

        def call(*args: Any, **kwds: Any) -> Any:
            return method(*args, **{**self._options, **kwds})

        return call


def _budget(object_memory: Any, processes: int) -> int:
    if object_memory is None:
        return int(_core.available_memory() * _MEMORY_SHARE)
    least = _LEAST_MEMORY * (1 + processes)
    return _checks.whole(f"object_memory for {processes} workers", object_memory, least)


def worker_count(processes: Any, name: str = "processes") -> int:
    if processes is None:
        return _core.usable_cpus()
    return _checks.whole(name, processes, 1, _MOST_WORKERS)
