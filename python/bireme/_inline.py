"""Running items in the caller, for as long as sending them to workers would not pay.

Items run in slices, and after each slice the work that is left is estimated anew. A slice is
as long as the items seen so far promise to take some microseconds, so that looking at the
clock costs a trivial function little, while an item that takes long is noticed when it ends.
What is not noticed in time is bounded by the slice: work that turns heavy after items of some
nanoseconds each is noticed within an eighth of all items, and within `_MOST_ITEMS`.
"""

from __future__ import annotations

from itertools import islice
from resource import RUSAGE_THREAD, getrusage
from time import monotonic, perf_counter, thread_time

from bireme._core import usable_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bireme._source import Source

# A slice is predicted to take so long; what happens between two costs about 3 % of that.
_SLICE_S = 150e-6
_MOST_ITEMS = 4096
_GROWTH = 16  # from one slice to the next, at most
_CAREFUL_GROWTH = 2  # where nothing is known of how many items there are
# Before anything is decided, so much time in items is sampled; the first item, which may import
# or compile something, does not count unless it is long.
_SAMPLE_S = 0.3e-3
_LONG_ITEM_S = 10e-3
# Costs of workers: to start them, while items run here, and to end them; the call on a pool at
# hand; one object there and back; a byte; a number.
_STARTING_S = 10e-3
_CALL_S = 100e-6
_OBJECT_S = 0.25e-6
_BYTE_S = 0.5e-9
_NUMBER_S = 0.1e-6
# Old items are forgotten: of their time so much counts as evidence.
_WINDOW_S = 20e-3
# Slices that keep to the prediction are looked at together.
_LOOK_S = 0.3e-3
# What is to be gained must be so many times what it costs: both are estimates.
_MARGIN = 1.5


class Inline:
    """One call's items, as far as they run in the caller.

    Parameters
    ----------
    source : Source
        The items, and the function to call on them.
    workers : int, optional
        How many items could run at once elsewhere; with 1 all of them run here. `None` are the
        cores, which are counted when it matters: it takes as long as hundreds of tiny items.
    start_s : float
        Seconds until a pool would be there; 0 if it is there.
    start : callable, optional
        Begins to start it, and tells whether that worked; called once, when it promises to pay.
    shown : tqdm, optional
        A progress bar.
    clock, usage : callable
        Give seconds; what `_usage` gives.
    """

    def __init__(
        self,
        source: Source,
        workers: int | None = 1,
        start_s: float = 0.0,
        start: Callable[[], bool] | None = None,
        shown: Any = None,
        clock: Callable[[], float] = perf_counter,
        usage: Callable[[], tuple[float, int]] | None = None,
    ) -> None:
        self.results: list[Any] = []
        self.failure: BaseException | None = None  # of the lowest index
        self.spent_s = 0.0
        self.item_s = 0.0  # what an item took, lately
        self.transport_s: float | None = None  # what sending one would cost, once it matters
        self._source = source
        self._workers = workers
        self._alone = workers == 1
        self._start_s = start_s
        self._start = start
        self._ready: float | None = None  # when the pool that was started will be there
        self._overhead_s = start_s + _CALL_S
        # The clock and `_usage()` at some moment.
        self._usage: tuple[float, float, int] | None = None
        self._shown = shown
        self._clock = clock
        self._read_usage = usage or _usage

    def run(self) -> bool:
        """Run items until none is left (`True`), or the others had better go to workers."""
        source, results, shown, clock = self._source, self.results, self._shown, self._clock
        take, fn, star = source.take, source.fn, source.star
        total = source.total
        most = _MOST_ITEMS if total is None or self._alone else min(_MOST_ITEMS, total // 8 + 1)
        growth = _CAREFUL_GROWTH if total is None else _GROWTH
        size = most if self._alone else 1
        begun = last = look = clock()
        end = seen = 0  # items now, and at the last look
        time = count = 0.0  # the evidence
        while True:
            part = take(size)
            taken = len(part)
            if not taken:
                break
            end += taken
            items = iter(part)
            while (
                True
            ):  # a loop is faster here than `map`, and than a comprehension whose list is added
                try:
                    if star:
                        for item in items:
                            results.append(fn(*item))
                    else:
                        for item in items:
                            results.append(fn(item))
                    break
                except Exception as error:
                    self.fail(error)
                    results.append(None)  # nobody will see the results
            if shown is not None:
                shown.update(taken)
            if end == total:
                break
            if self._alone or (now := clock()) < look:
                continue
            if time > _WINDOW_S:
                count *= _WINDOW_S / time
                time = _WINDOW_S
            spent = now - last
            time += spent
            count += end - seen
            item = time / count
            before = size
            if end == 1 and spent < _LONG_ITEM_S:
                time = count = 0.0  # what is called first takes longest
                if spent < _SLICE_S:
                    size = min(growth, most)
                else:
                    self._usage = now, *self._read_usage()
            else:
                fitting = 1 + int(_SLICE_S * (end - seen) / (spent or _SLICE_S))
                size = min(most, growth * size, fitting)
            known = time >= _SAMPLE_S or (end == 1 and time)
            if known and (self._leaves(item, now) or self._wants_pool(item)):
                if self._usage is None and end > 1:
                    # Sample again: now it matters whose time it is.
                    self._usage = now, *self._read_usage()
                    time = count = 0.0
                else:
                    own = item * self._own_share()
                    if self._leaves(own, now):
                        self.spent_s, self.item_s = now - begun, item
                        return False
                    if self._wants_pool(own):
                        now = self._start_pool()
            if before <= 2 * size <= 4 * before:  # slices have their length
                look = now + _LOOK_S
            last, seen = now, end
        self.spent_s = clock() - begun
        self.item_s = self.spent_s / max(1, len(results))
        return True

    def fail(self, error: BaseException) -> None:
        """Take note of what the next item raised."""
        if self.failure is None:
            self.failure = error

    def _leaves(self, item_s: float, now: float) -> bool:
        """Whether what is left had better go to workers now."""
        if self._ready is not None:
            self._overhead_s = max(0.0, self._ready - now) + _CALL_S
        return self._pays(item_s, self._overhead_s)

    def _wants_pool(self, item_s: float) -> bool:
        """Whether there will be enough left for workers when they are there."""
        return self._start is not None and self._pays(item_s, _STARTING_S + _CALL_S, self._start_s)

    def _start_pool(self) -> float:
        """Begin to start the pool, once; give the time."""
        start, self._start = self._start, None
        assert start is not None
        started = start()
        now = self._clock()
        if started:
            self._ready = now + self._start_s
        return now

    def _pays(self, item_s: float, overhead_s: float, here_s: float = 0.0) -> bool:
        """Estimate whether workers save more than `overhead_s` once items of `here_s` have run here."""
        if self._workers is None:
            self._workers = _cores()
        if item_s * (1 - 1 / self._workers) <= _MARGIN * _NUMBER_S:
            return False  # however many are left, which an iterator knows only at its end
        left = self._source.left() - here_s / item_s
        if left < 2:
            return False
        gain_s = item_s * (1 - 1 / min(self._workers, left))
        if gain_s * left <= _MARGIN * (overhead_s + _NUMBER_S * left):
            return False
        if self.transport_s is None:
            self.transport_s = _transport_s(self._source.sample()) + _transport_s(self.results[-1])
        return gain_s * left > _MARGIN * (overhead_s + self.transport_s * left)

    def _own_share(self) -> float:
        """Give which part of the time was the items' own, if all they did was compute.

        Where other processes took the core meanwhile, the clock says more than workers could save.
        """
        if self._usage is None:
            return 1.0
        then, cpu_s, waits = self._usage
        now_cpu_s, now_waits = self._read_usage()
        passed_s = self._clock() - then
        if now_waits > waits or passed_s <= 0:
            return 1.0
        return min(1.0, (now_cpu_s - cpu_s) / passed_s)

    def describe(self, where: str) -> str:
        """Say what was decided and why; `where` names the pool that the rest went to."""
        done = len(self.results)
        took = f"in {_duration(self.spent_s)}, {_duration(self.item_s)} an item"
        inline = f"{done} item{'' if done == 1 else 's'} inline {took}"
        if not where:
            return inline if self._alone else f"{inline}: {self._costs()} would not pay"
        left = self._source.left()
        work = _duration(left * self.item_s)
        return f"{inline}; the other {left}, about {work}, by {where} at {self._costs()}"

    def _costs(self) -> str:
        workers = "" if self._workers is None else f"{self._workers} "
        transport_s = _NUMBER_S if self.transport_s is None else self.transport_s
        return f"{_duration(self._overhead_s)} for {workers}workers and {_duration(transport_s)} an item"


_cores_seen = (0, float("-inf"))


def _cores() -> int:
    """Give the number of usable cores, counted anew every second."""
    global _cores_seen
    cores, when = _cores_seen
    if monotonic() - when > 1:
        cores = usable_cpus()
        _cores_seen = cores, monotonic()
    return cores


def _usage() -> tuple[float, int]:
    """Give this thread's seconds on a core, and how often it waited for something."""
    return thread_time(), getrusage(RUSAGE_THREAD).ru_nvcsw


def _transport_s(value: Any, depth: int = 3) -> float:
    """Estimate what it takes to pickle, move and unpickle `value`, from a glance at it."""
    if value is None or isinstance(value, (int, float)):
        return _NUMBER_S
    size = getattr(value, "nbytes", None)
    if isinstance(size, int):
        return 8 * _OBJECT_S + size * _BYTE_S
    if isinstance(value, (str, bytes, bytearray)):
        return _OBJECT_S + len(value) * _BYTE_S
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        some = list(islice(value.items() if isinstance(value, dict) else value, 3)) if depth else []
        total_s = sum(_transport_s(item, depth - 1) for item in some)
        mean_s = total_s / len(some) if some else _NUMBER_S
        return _OBJECT_S + len(value) * mean_s
    inside = getattr(value, "__dict__", None)
    if not depth or not isinstance(inside, dict):
        return 4 * _OBJECT_S
    return 4 * _OBJECT_S + _transport_s(inside, depth - 1)


def _duration(seconds: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
