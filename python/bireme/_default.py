"""`bireme.map`, `starmap` and `imap`: one call, on a pool that nobody has to manage."""

from __future__ import annotations

from bireme import _checks
from bireme._calls import Call, LocalIterator
from bireme._submit import check_buffersize, check_chunksize, start_imap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

__all__ = ["imap", "map", "starmap"]


def map(
    fn: Callable[..., Any],
    *iterables: Iterable[Any],
    workers: int | None = None,
    chunksize: int | None = None,
    progress: bool = False,
    inline: bool | None = None,
    explain: bool = False,
    seed: int | None = None,
    task_timeout: float | None = None,
    retries: int = 0,
    retry_on: Any = (),
    start_method: str | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
) -> list[Any]:
    """Call ``fn`` on each item, in parallel where that pays; give the results in order.

    It takes the place of ``list(map(fn, *iterables))``. The first items run in the caller and
    are timed: work too small to gain from other processes stays there, the rest of larger work
    goes to a pool that all such calls share.

    Parameters
    ----------
    fn : callable
        Takes one item of each iterable.
    *iterables : iterable
        The items; several are zipped, to the length of the shortest.
    workers : int, optional
        Most items that run at once; by default the cores that this process may use.
    chunksize : int, optional
        Items a worker takes at a time; by default the map schedules itself.
    progress : bool
        Show a tqdm bar.
    inline : bool, optional
        `True`: run all items in the caller; `False`: run none there; by default decide by
        their times, as long as no other option asks for a worker.
    explain : bool
        Say on `sys.stderr`, in one line, where the items ran and why.
    seed : int, optional
        Give every item random streams of its own (`random`, `numpy.random`, `bireme.rng`)
        that depend on the seed and the item's position only.
    task_timeout : float, optional
        Seconds an item may run.
    retries : int
        Attempts more for an item whose worker died.
    retry_on : type or tuple of type
        Exceptions after which an item is tried again, too.
    start_method : {"template", "fork", "spawn", "forkserver"}, optional
        Where workers come from; see `Pool`.
    initializer, initargs : callable, tuple
        Called once in each worker; such a call gets a pool of its own.

    Returns
    -------
    list
        The results, in the order of the items.

    Raises
    ------
    Exception
        What the item of the lowest index raised, after all others have run.
    ValueError
        For options that contradict each other.
    PicklingError
        If ``fn`` or an item cannot travel to a worker.

    See Also
    --------
    starmap : items that are unpacked into arguments.
    imap : the same, lazily.
    Pool : workers of your own; never runs anything in the caller.

    Notes
    -----
    *In the caller* at least about 0.3 ms of items run, and as many more as are predicted to
    take less time there than elsewhere: with a pool at hand that is a fraction of a millisecond.
    The first pool is started, while items go on here, once they promise enough work for it: of
    what takes less than about 0.1 s all runs here, of more than that some hundredths of a second.
    A crash there is the caller's. The prediction is made anew every 150 microseconds at first and
    0.3 ms later, or after each item that takes longer.

    *The shared pool* is started at first need and dropped when it was idle for 30 seconds, and at
    exit. It is renewed, so that all its workers see the same, when the working directory, `sys.path`,
    `sys.argv`, `os.environ`, the levels of loggers or the source of a loaded module (installed
    packages aside) changed, when a module was reloaded, and in a forked child; not for what only
    workers can see: the source of a module that the caller has not loaded, the umask.
    With ``start_method="fork"`` the call gets a pool of its own, since workers are to see what
    the caller has at the call.

    *In a task* such a call runs in that task's worker, item after item. With
    ``task_timeout``, ``retries`` or ``initializer`` it runs in one worker process of that task's own.

    Any thread may call it.

    Examples
    --------
    >>> import bireme
    >>> bireme.map(lambda x: x * x, range(5))
    [0, 1, 4, 9, 16]
    >>> bireme.map(pow, [2, 3], [5, 2], inline=False)
    [32, 9]
    """
    if not iterables:
        raise TypeError("map() needs a function and at least one iterable")
    options = _options(seed, task_timeout, retries, retry_on)
    call = Call("map", fn, workers, inline, (start_method, initializer, initargs), options)
    return call.run(iterables, False, chunksize, progress, explain)


def starmap(
    fn: Callable[..., Any],
    iterable: Iterable[Iterable[Any]],
    *,
    workers: int | None = None,
    chunksize: int | None = None,
    progress: bool = False,
    inline: bool | None = None,
    explain: bool = False,
    seed: int | None = None,
    task_timeout: float | None = None,
    retries: int = 0,
    retry_on: Any = (),
    start_method: str | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
) -> list[Any]:
    """Call ``fn(*item)`` for each item; otherwise as `map`.

    Parameters
    ----------
    fn : callable
        Takes what an item holds as its arguments.
    iterable : iterable of iterable
        The items.
    workers, chunksize, progress, inline, explain, seed, task_timeout, retries, retry_on
        As for `map`.
    start_method, initializer, initargs
        As for `map`.

    Returns
    -------
    list
        The results, in the order of the items.

    Examples
    --------
    >>> import bireme
    >>> bireme.starmap(divmod, [(7, 2), (9, 4)])
    [(3, 1), (2, 1)]
    """
    options = _options(seed, task_timeout, retries, retry_on)
    call = Call("starmap", fn, workers, inline, (start_method, initializer, initargs), options)
    return call.run((iterable,), True, chunksize, progress, explain)


def imap(
    fn: Callable[..., Any],
    *iterables: Iterable[Any],
    workers: int | None = None,
    chunksize: int = 1,
    buffersize: int | None = None,
    progress: bool = False,
    inline: bool | None = None,
    seed: int | None = None,
    task_timeout: float | None = None,
    retries: int = 0,
    retry_on: Any = (),
    start_method: str | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
) -> Iterator[Any]:
    """As `map`, lazily: give an iterator over the results, in order.

    The input is read by the thread that takes the results, so an endless generator is fine; one that
    waits for what becomes of a result is for `Pool.imap`. Items run in the shared pool from the
    start, unless ``inline=True`` (then each when its result is taken).

    Parameters
    ----------
    fn, *iterables
        As for `map`.
    chunksize : int
        Items a worker takes at a time.
    buffersize : int, optional
        Items read and not yet given; by default four chunks a worker.
    workers, progress, inline, seed, task_timeout, retries, retry_on
        As for `map`.
    start_method, initializer, initargs
        As for `map`.

    Yields
    ------
    object
        The result of each item. What an item raised is raised in its place, and the iterator
        goes on with the next.

    Examples
    --------
    >>> import bireme, itertools
    >>> squares = bireme.imap(lambda x: x * x, itertools.count())
    >>> next(squares), next(squares), next(squares)
    (0, 1, 4)
    """
    if not iterables:
        raise TypeError("imap() needs a function and at least one iterable")
    options = _options(seed, task_timeout, retries, retry_on)
    call = Call("imap", fn, workers, inline, (start_method, initializer, initargs), options)
    star = len(iterables) > 1
    for index, iterable in enumerate(iterables):
        _checks.items(f"iterables[{index}]", iterable)
    items: Iterable[Any] = zip(*iterables, strict=False) if star else iterables[0]
    if call.stays:
        check_chunksize(chunksize)
        check_buffersize(buffersize)
        return LocalIterator(call, items, star, progress)
    if progress:
        call.options["progress"] = _checks.flag("progress", progress)
    return start_imap(
        call.pool(), fn, items, chunksize, buffersize, True, call.options, star, reads_here=True
    )


def _options(
    seed: int | None, task_timeout: float | None, retries: int, retry_on: Any
) -> dict[str, Any]:
    """Give those that were set."""
    options: dict[str, Any] = {}
    if seed is not None:
        options["seed"] = seed
    if task_timeout is not None:
        options["task_timeout"] = task_timeout
    if retries != 0:
        options["retries"] = retries
    if retry_on:
        options["retry_on"] = retry_on
    return options
