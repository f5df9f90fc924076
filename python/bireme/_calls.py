"""Where a call of `bireme.map` and its kin runs: in the caller, in a pool, or first here, then there."""

from __future__ import annotations

import sys
from _thread import RLock
from itertools import count
from operator import length_hint

from bireme import _checks, _shared_pool
from bireme._inline import Inline
from bireme._progress import bar
from bireme._source import Source
from bireme._submit import check_chunksize, check_options, check_together, finish
from bireme.errors import ResourceLimitError
from bireme.pool import worker_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Self

    from bireme.pool import Pool

    Birth = tuple[str | None, Callable[..., object] | None, Iterable[Any]]

_NEEDS_WORKER = frozenset(("task_timeout", "start_method", "initializer"))
_NEEDS_GUARD = frozenset(("task_timeout", "retries", "initializer"))


class Call:
    """One call: the function, and what its options ask for.

    Parameters
    ----------
    name : str
        What the user called, for messages.
    fn : callable
        The user's function.
    workers : int, optional
        Most items that run at once.
    inline : bool, optional
        Whether to run in the caller; `None` lets the items' times decide.
    birth : tuple
        ``start_method``, ``initializer`` and ``initargs`` of a pool.
    options : dict
        What the user set of ``seed``, ``task_timeout``, ``retries``, ``retry_on``.
    """

    def __init__(
        self,
        name: str,
        fn: Callable[..., Any],
        workers: int | None,
        inline: bool | None,
        birth: Birth,
        options: dict[str, Any],
    ) -> None:
        _checks.function("fn", fn)
        if inline is not None:
            _checks.flag("inline", inline)
        if options:
            check_options(options)
            check_together(options)
        self.fn = fn
        self.options = options
        self._name = name
        self._workers = None if workers is None else worker_count(workers, "workers")
        self._birth = birth
        # What was set that only workers give, or give best.
        self._why = [*options]
        if birth[0] is not None:
            self._why.append("start_method")
        if birth[1] is not None:
            self._why.append("initializer")
        for name in self._why if inline else ():
            if name in _NEEDS_WORKER:
                raise ValueError(f"inline=True cannot go with {name}, which needs a worker")
        # Whether all of it runs in this process, and whether that is for times to decide.
        self.stays = bool(inline)
        self.decides = inline is None and not self._why
        if _in_task():
            # This process is one of many already: what needs another one to watch over it gets one.
            self.stays = _NEEDS_GUARD.isdisjoint(self._why)
            self.decides = False
            self._workers = 1
            self._birth = None, *birth[1:]
            self._derive_seed()

    def _derive_seed(self) -> None:
        seeds = sys.modules.get("bireme._seeds")
        if seeds is None or not seeds.in_item():
            return
        if "seed" in self.options:
            self.options["seed"] = seeds.nested(self.options["seed"])
        elif not self.stays:
            # Here the items would draw from the outer item's streams; elsewhere they cannot.
            self.options["seed"] = seeds.random.getrandbits(64)

    def pool(self) -> Pool:
        """Give the pool for it: the shared one, or one of its own that ends with its last user."""
        start_method, initializer, initargs = self._birth
        workers = worker_count(self._workers)
        if initializer is None and start_method != "fork":
            return _shared_pool.find(workers, start_method or "template")
        return _shared_pool.DefaultPool(workers, initializer, initargs, start_method=start_method)

    def _start_pool(self) -> bool:
        try:
            self.pool()
        except ResourceLimitError:  # it will be told if items have to go there
            return False
        return True

    def local(self) -> Callable[..., Any]:
        """Give the function with its options, for running in this process."""
        fn, options = self.fn, self.options
        if "retry_on" in options:
            from bireme._retry import Retrying

            fn = Retrying(fn, options["retry_on"], options.get("retries", 0))
        if "seed" not in options:
            return fn
        from bireme._seeds import seed_item

        indices = count()

        def seeded(*args: Any) -> Any:
            seed_item(options["seed"], next(indices))
            return fn(*args)

        return seeded

    def run(
        self,
        iterables: tuple[Iterable[Any], ...],
        star: bool,
        chunksize: int | None,
        progress: bool,
        explain: bool,
    ) -> list[Any]:
        """Run all items; give their results or raise what the one of the lowest index raised."""
        chunksize = check_chunksize(chunksize)
        source = Source(self.local() if self.stays else self.fn, iterables, star)
        shown = None
        if progress:
            _checks.flag("progress", progress)
            shown = bar(source.total)
        if explain:
            _checks.flag("explain", explain)
        if self.decides:
            start_s = _shared_pool.start_s()
            start = self._start_pool if start_s else None
            inline = Inline(source, self._workers, start_s, start, shown)
        else:
            inline = Inline(source, shown=shown)
        try:
            done = (self.stays or self.decides) and self._run_here(inline)
            if explain:
                self._explain(inline, done)
            if not done:
                self._run_there(inline, source, chunksize, shown)
        finally:
            if shown is not None:
                shown.close()
        failure, inline.failure = inline.failure, None
        if failure is None:
            return inline.results
        try:
            raise failure
        finally:
            del failure  # it refers to this frame

    def _run_here(self, inline: Inline) -> bool:
        if "seed" not in self.options:
            return inline.run()
        from bireme._seeds import Kept

        with Kept():
            return inline.run()

    def _run_there(self, inline: Inline, source: Source, chunksize: int | None, shown: Any) -> None:
        items, star = source.rest()
        pool = self.pool()
        begin = pool.starmap_async if star else pool.map_async
        try:
            inline.results += finish(begin(self.fn, items, chunksize, **self.options), shown)
        except Exception as error:
            inline.fail(error)

    def _explain(self, inline: Inline, done: bool) -> None:
        count = worker_count(self._workers)
        where = f"{count} workers" if count > 1 else "one worker"
        if done or self.decides:
            story = inline.describe("" if done else where)
        else:
            story = f"all items by {where}, because of {', '.join(self._why) or 'inline=False'}"
        if sys.stderr is not None:
            sys.stderr.write(f"bireme.{self._name}: {story}\n")


def _in_task() -> bool:
    """Whether a task runs here: this is a worker, or an item has its own random streams here."""
    worker = sys.modules.get("bireme.worker")
    if worker is not None and worker._current is not None:
        return True
    seeds = sys.modules.get("bireme._seeds")
    return seeds is not None and seeds.in_item()


class LocalIterator:
    """Results of `bireme.imap` of items that run in this process, each when it is asked for.

    Threads may share it.

    Parameters
    ----------
    call : Call
        The call.
    items : iterable
        Its items.
    star : bool
        Whether an item is unpacked into arguments.
    progress : bool
        Whether to show a bar.
    """

    def __init__(self, call: Call, items: Iterable[Any], star: bool, progress: bool) -> None:
        self._fn = call.local()
        self._input = iter(items)
        self._star = star
        self._seeded = "seed" in call.options
        # One thread at a time reads the input and, since the process has one set of global random
        # streams, runs a seeded item.
        self._lock = RLock()
        self._bar: Any = None
        if progress:
            self._bar = bar(length_hint(items) or None)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Run the next item and give its result; `timeout` is there for other iterators' sake."""
        with self._lock:
            try:
                item = next(self._input)
            except StopIteration:
                if self._bar is not None:
                    self._bar.close()
                raise
            if self._bar is not None:
                self._bar.update()
            if self._seeded:
                from bireme._seeds import Kept

                with Kept():
                    return self._call(item)
        return self._call(item)

    def _call(self, item: Any) -> Any:
        return self._fn(*item) if self._star else self._fn(item)
