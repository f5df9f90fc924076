"""How the calls of a pool become the core's: options checked, items as a sequence."""

from __future__ import annotations

import sys

from bireme import _checks
from bireme._progress import ShownResult, bar, follow
from bireme._remote import room
from bireme._result import AsyncResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from bireme._imap import ItemIterator
    from bireme.pool import Pool

_OPTIONS = frozenset(("task_timeout", "retries", "retry_on", "seed", "progress", "name"))


def check_options(options: dict[str, Any]) -> dict[str, Any]:
    unknown = options.keys() - _OPTIONS
    if unknown:
        raise TypeError(
            f"unexpected option {sorted(unknown)[0]!r}; known are {', '.join(sorted(_OPTIONS))}"
        )
    _checks.seconds("task_timeout", options.get("task_timeout"))
    _checks.whole("retries", options.get("retries", 0), 0, 2**16 - 1)
    if options.get("seed") is not None:
        check_seed(options["seed"])
    if options.get("progress"):
        _checks.flag("progress", options["progress"])
    if not isinstance(options.get("name"), (str, type(None))):
        _checks.refuse(TypeError, "name", "a str or None", options["name"])
    return options


def check_seed(seed: Any) -> int:
    return _checks.whole("seed", seed, 0, 2**64 - 1)


def check_together(options: dict[str, Any]) -> None:
    """Refuse options that mean nothing without another one."""
    if options.get("retry_on") and not options.get("retries"):
        raise ValueError(
            "retry_on says after which exceptions to retry: it needs retries=1 or more"
        )


def _prepare(
    pool: Pool, func: Callable[..., Any], options: dict[str, Any]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Check options; give the function to send and the core's arguments."""
    _checks.function("func", func)
    if not options and pool._seed is None:
        return func, {}
    options = check_options(options)
    check_together(options)
    retries = options.get("retries", 0)
    name: Any = options.get("name")
    if options.get("retry_on"):
        from bireme._retry import Retrying

        name = name or func
        func = Retrying(func, options["retry_on"], retries)
    seed = options.get("seed")
    seed = pool._seed if seed is None else seed
    return func, {
        "task_timeout": options.get("task_timeout"),
        "retries": retries,
        "seed": seed,
        "retry_timeouts": _names_timeout(options.get("retry_on", ())),
        "name": name,
    }


def _names_timeout(retry_on: Any) -> bool:
    """Whether the error of a task that ran out of time is among the classes in `retry_on`."""
    from bireme.errors import TaskTimeoutError

    return issubclass(TaskTimeoutError, retry_on or ())


def submit_call(
    pool: Pool,
    func: Callable[..., Any],
    args: Iterable[Any],
    kwds: dict[str, Any],
    callback: Callable[[Any], object] | None,
    error_callback: Callable[[BaseException], object] | None,
    options: dict[str, Any],
) -> AsyncResult:
    client = pool._client
    if pool._closing or client is None:
        raise ValueError("Pool not running")
    if args.__class__ is not tuple:
        _checks.items("args", args)
        args = tuple(args)
    if kwds.__class__ is not dict and not isinstance(kwds, dict):
        _checks.refuse(TypeError, "kwds", "a dict", kwds)
    func, settings = _prepare(pool, func, options)
    if settings:
        settings["index"] = pool._next_index(settings["seed"])
    make, watched = _factory(callback, error_callback)
    return client.apply(make, func, args, kwds, watched, **settings)  # type: ignore[no-any-return]


def finish(result: AsyncResult, shown: Any = None) -> Any:
    """Wait for a blocking call, with a bar if given; what Ctrl-C leaves half done is stopped."""
    try:
        if shown is not None:
            follow(result, shown)
        return result.get()
    except Exception:
        raise
    except BaseException:
        result.cancel(running=True)
        raise


def _factory(callback: Any, error_callback: Any, shown: Any = None) -> tuple[Any, bool]:
    """Give what makes the result object, and whether the dispatcher is to see to it."""
    if callback is None and error_callback is None and shown is None:
        return AsyncResult, False
    _checks.function("callback", callback, optional=True)
    _checks.function("error_callback", error_callback, optional=True)

    def make() -> AsyncResult:
        if shown is None:
            result = AsyncResult()
        else:
            result = ShownResult()
            result._bar = shown
        result._callback, result._error_callback = callback, error_callback
        return result

    return make, True


def _sequence(iterable: Any) -> Any:
    """Give the items as something that has a length and slices."""
    if type(iterable) in (list, range):  # a subclass may give other items than it holds
        return iterable
    numpy = sys.modules.get("numpy")
    if (
        numpy is not None
        and type(iterable) is numpy.ndarray
        and iterable.ndim > 0
        and not iterable.dtype.hasobject
    ):
        return iterable
    return list(iterable)


def check_chunksize(chunksize: int | None) -> int | None:
    return None if chunksize is None else _checks.whole("chunksize", chunksize, 1)


def check_buffersize(buffersize: int | None) -> int | None:
    return None if buffersize is None else _checks.whole("buffersize", buffersize, 1)


def submit_map(
    pool: Pool,
    func: Callable[..., Any],
    iterable: Iterable[Any],
    chunksize: int | None,
    star: bool,
    options: dict[str, Any],
    callback: Callable[[Any], object] | None = None,
    error_callback: Callable[[BaseException], object] | None = None,
) -> AsyncResult:
    client = pool._open()
    func, settings = _prepare(pool, func, options)
    _checks.items("iterable", iterable)
    items = _sequence(iterable)
    if settings.get("retry_timeouts") and settings["task_timeout"] is not None and not chunksize:
        chunksize = 1  # what ran out of time is tried again alone
    size = check_chunksize(chunksize)
    shown = None
    if options.get("progress"):
        shown = bar(len(items))
    make, watched = _factory(callback, error_callback, shown)
    try:
        return client.map(make, func, items, star, size, watched, **settings)  # type: ignore[no-any-return]
    except BaseException:
        if shown is not None:
            shown.close()
        raise


def run_map(
    pool: Pool,
    func: Callable[..., Any],
    iterable: Iterable[Any],
    chunksize: int | None,
    star: bool,
    options: dict[str, Any],
) -> list[Any]:
    """Submit a map and wait for it; who waits moves the bar, if there is to be one."""
    if not options.get("progress"):
        return finish(submit_map(pool, func, iterable, chunksize, star, options))  # type: ignore[no-any-return]
    _checks.flag("progress", options["progress"])
    items, options = _sequence(iterable), {**options, "progress": False}
    with bar(len(items)) as shown:
        return finish(submit_map(pool, func, items, chunksize, star, options), shown)  # type: ignore[no-any-return]


def start_imap(
    pool: Pool,
    func: Callable[..., Any],
    iterable: Iterable[Any],
    chunksize: int,
    buffersize: Any,
    ordered: bool,
    options: dict[str, Any],
    star: bool = False,
    reads_here: bool = False,
) -> ItemIterator:
    """Start a lazy map; an input that may wait is read in a thread, unless it is to be read here."""
    with room("imap"):
        from bireme._imap import ItemIterator
        from bireme._reader import may_wait

    client = pool._open()
    func, settings = _prepare(pool, func, options)
    size = check_chunksize(chunksize) or 1
    buffersize = check_buffersize(buffersize)
    _checks.items("iterable", iterable)
    client.check_function(func)
    ahead = 4 * pool.processes if buffersize is None else max(1, buffersize // size)
    items = ItemIterator(pool, client, func, iterable, star, size, ahead, ordered, settings)
    pool._feeds.add(items)
    reader = not reads_here and may_wait(iterable)
    items.start(bool(options.get("progress")), reader, runs_unseen=not reads_here)
    return items
