"""Every contender behind one interface, so that a workload is written once.

A peer is opened with a number of workers, warmed with trivial rounds until every worker has answered, and closed by its context manager. Peers that
lack an operation raise `NotImplementedError`; a workload lists only the contenders for which it makes sense.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benches.compare.model import label

#: What must be importable for a contender to run at all.
NEEDS = {"joblib": "joblib", "loky": "loky", "mpire": "mpire", "ray": "ray"}


def installed(contender: str) -> bool:
    """Tell whether the packages of `contender` are there."""
    return importlib.util.find_spec(NEEDS.get(contender, "multiprocessing")) is not None


def identity(value: Any) -> Any:
    """Return the value."""
    return value


def answer(value: Any) -> tuple[Any, tuple[int, int]]:
    """Return the value, and which process and thread saw it: the task that warms a pool."""
    time.sleep(0.002)  # long enough that one worker does not take what the others could
    return value, (os.getpid(), threading.get_ident())


def pool_chunk(items: int, workers: int) -> int:
    """Return the default chunk size of `multiprocessing.Pool.map`, given to peers whose own default is 1."""
    return max(1, -(-items // (4 * workers)))


class Peer:
    """What a workload asks of a contender; this base is the plain loop."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers

    def burst(self, function: Callable[[], Any], count: int) -> list[Any]:
        """Submit `count` calls, then collect every result."""
        return [function() for _ in range(count)]

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Make one call there and back."""
        return function(*args)

    def map(
        self, function: Callable[[Any], Any], items: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Return the results for all items, in order; `chunksize` None is the contender's own default."""
        del chunksize
        return [function(item) for item in items]


class PoolPeer(Peer):
    """`multiprocessing.Pool`, and `bireme.Pool`, which has the same methods."""

    def __init__(self, pool: Any, workers: int) -> None:
        super().__init__(workers)
        self.pool = pool

    def burst(self, function: Callable[[], Any], count: int) -> list[Any]:
        """Submit all, then collect."""
        submit = self.pool.apply_async
        return [result.get() for result in [submit(function) for _ in range(count)]]

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Submit one call and wait for it."""
        return self.pool.apply(function, args)

    def map(
        self, function: Callable[[Any], Any], items: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Map in the way of this contender."""
        return list(self.pool.map(function, items, chunksize))


class ExecutorPeer(Peer):
    """`concurrent.futures` and loky, with `Pool`'s chunk size where none is given (their own is 1)."""

    def __init__(self, executor: Any, workers: int) -> None:
        super().__init__(workers)
        self.executor = executor

    def burst(self, function: Callable[[], Any], count: int) -> list[Any]:
        """Submit all, then collect."""
        submit = self.executor.submit
        return [future.result() for future in [submit(function) for _ in range(count)]]

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Submit one call and wait for it."""
        return self.executor.submit(function, *args).result()

    def map(
        self, function: Callable[[Any], Any], items: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Map in the way of this contender."""
        items = items if isinstance(items, Sequence) else list(items)
        return list(
            self.executor.map(
                function, items, chunksize=chunksize or pool_chunk(len(items), self.workers)
            )
        )


class MpirePeer(PoolPeer):
    """`mpire.WorkerPool`; its map spreads tuples over the arguments, so each item is wrapped in one."""

    def map(
        self, function: Callable[[Any], Any], items: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Map in the way of this contender."""
        wrapped = [(item,) for item in items]
        return list(
            self.pool.map(function, wrapped, chunk_size=chunksize, concatenate_numpy_output=False)
        )


class JoblibPeer(Peer):
    """`joblib.Parallel` with its default backend, kept open between calls."""

    def __init__(self, parallel: Any, delayed: Any, workers: int) -> None:
        super().__init__(workers)
        self.parallel, self.delayed = parallel, delayed

    def burst(self, function: Callable[[], Any], count: int) -> list[Any]:
        """Submit all, then collect."""
        return list(self.parallel(self.delayed(function)() for _ in range(count)))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Submit one call and wait for it."""
        return self.parallel([self.delayed(function)(*args)])[0]

    def map(
        self, function: Callable[[Any], Any], items: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Map in the way of this contender."""
        del chunksize
        return list(self.parallel(self.delayed(function)(item) for item in items))


class RayPeer(Peer):
    """Ray tasks; a large argument is put into its object store as part of the call."""

    def __init__(self, ray: Any, workers: int) -> None:
        super().__init__(workers)
        self.ray = ray
        self.remotes: dict[Any, Any] = {}

    def remote(self, function: Callable[..., Any]) -> Any:
        """Return the remote form of `function`, made once."""
        if function not in self.remotes:
            self.remotes[function] = self.ray.remote(lambda *args: function(*args))
        return self.remotes[function]

    def burst(self, function: Callable[[], Any], count: int) -> list[Any]:
        """Submit all, then collect."""
        submit = self.remote(function).remote
        return list(self.ray.get([submit() for _ in range(count)]))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Submit one call and wait for it."""
        return self.ray.get(self.remote(function).remote(*args))

    def map(
        self, function: Callable[[Any], Any], items: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Map in the way of this contender."""
        del chunksize
        submit = self.remote(function).remote
        return list(self.ray.get([submit(item) for item in items]))


@contextmanager
def opened(contender: str, workers: int = 2, *, warm: bool = True, **options: Any) -> Iterator[Any]:
    """Open a contender, warm it, and close it at the end.

    Parameters
    ----------
    contender : str
        A name of `model.LABELS`.
    workers : int
        How many processes or threads.
    warm : bool
        Run trivial rounds first, until every worker has answered.
    **options
        Passed to the pool's constructor (``initializer=``, ``maxtasksperchild=``).

    Yields
    ------
    Peer
        The open contender.
    """
    face, _, method = contender.partition("-")
    with OPENERS[face](workers, method, options) as peer:
        if warm:
            _wait_for_all(peer, 1 if face == "loop" else workers, label(contender))
        yield peer


def _wait_for_all(peer: Peer, workers: int, name: str) -> None:
    answered: set[tuple[int, int]] = set()
    for _ in range(50):
        items = range(8 * workers)
        ready = peer.map(answer, items, 1)
        if [item for item, _ in ready] != list(items):
            raise AssertionError(f"{name} returned {ready} in its warm-up round")
        answered.update(who for _, who in ready)
        if len(answered) >= workers:
            return


@contextmanager
def _bireme(workers: int, method: str, options: dict[str, Any]) -> Iterator[Peer]:
    import bireme

    with bireme.Pool(workers, start_method=method or None, **options) as pool:
        yield PoolPeer(pool, workers)


@contextmanager
def _pool(workers: int, method: str, options: dict[str, Any]) -> Iterator[Peer]:
    with multiprocessing.get_context(method).Pool(workers, **options) as pool:
        yield PoolPeer(pool, workers)


@contextmanager
def _executor(workers: int, _method: str, options: dict[str, Any]) -> Iterator[Peer]:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(workers, **options) as executor:
        yield ExecutorPeer(executor, workers)


@contextmanager
def _threads(workers: int, _method: str, options: dict[str, Any]) -> Iterator[Peer]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(workers, **options) as executor:
        yield ExecutorPeer(executor, workers)


@contextmanager
def _loky(workers: int, _method: str, options: dict[str, Any]) -> Iterator[Peer]:
    loky = importlib.import_module("loky")
    with loky.ProcessPoolExecutor(workers, **options) as executor:
        yield ExecutorPeer(executor, workers)


@contextmanager
def _joblib(workers: int, _method: str, options: dict[str, Any]) -> Iterator[Peer]:
    joblib = importlib.import_module("joblib")
    with joblib.Parallel(n_jobs=workers, **options) as parallel:
        yield JoblibPeer(parallel, joblib.delayed, workers)


@contextmanager
def _mpire(workers: int, _method: str, options: dict[str, Any]) -> Iterator[Peer]:
    mpire = importlib.import_module("mpire")
    with mpire.WorkerPool(n_jobs=workers, keep_alive=True, **options) as pool:
        yield MpirePeer(pool, workers)


@contextmanager
def _ray(workers: int, _method: str, _options: dict[str, Any]) -> Iterator[Peer]:
    ray = importlib.import_module("ray")
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield RayPeer(ray, workers)
    finally:
        ray.shutdown()


@contextmanager
def _loop(_workers: int, _method: str, _options: dict[str, Any]) -> Iterator[Peer]:
    yield Peer()


OPENERS: dict[str, Callable[[int, str, dict[str, Any]], Any]] = {
    "bireme": _bireme,
    "pool": _pool,
    "executor": _executor,
    "threads": _threads,
    "loky": _loky,
    "joblib": _joblib,
    "mpire": _mpire,
    "ray": _ray,
    "loop": _loop,
}
