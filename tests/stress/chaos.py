"""Many tasks under many deaths: every task ends exactly once, and the others are right.

While tasks run, a thread ends a random worker every few milliseconds. Afterwards it must hold that

- every task has ended once, with its value or with `WorkerDiedError` (its callbacks counted);
- every value is right;
- without retries no task was begun twice; with them none was begun more often than allowed;
- the pool has all its workers and does its work; nothing is left over when it is gone.

Which worker, when, and the tasks' lengths follow from one seed, printed with every failure.
"""

from __future__ import annotations

import mmap
import os
import random
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bireme
from tests.support.processes import descendants, kill_descendant
from tests.support.waiting import poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bireme.pool import PoolView

_WAIT = 120.0  # seconds; only a lost task takes that long
_MERCY = 5  # kills without a birth in between
_open_ledgers: dict[str, mmap.mmap] = {}


def begin(ledger: str, index: int) -> int:
    """Count the begin of task `index` in a file that outlives this worker; give its number."""
    if ledger not in _open_ledgers:
        with open(ledger, "r+b") as file:
            _open_ledgers[ledger] = mmap.mmap(file.fileno(), 0)
    counts = _open_ledgers[ledger]
    counts[index] += 1
    return counts[index]


def work(ledger: str, index: int, microseconds: int) -> tuple[int, int]:
    """Compute for a while; the value shows whose it is."""
    begin(ledger, index)
    end = time.perf_counter() + microseconds / 1e6
    while time.perf_counter() < end:
        pass
    return index, index * index


def work_on_bytes(ledger: str, index: int, block: bytes) -> tuple[int, int, bytes]:
    """Give a block back, through the arena both ways."""
    begin(ledger, index)
    return index, index * index, block


@dataclass
class Killer:
    """Ends a random worker of a pool about every `interval` seconds until told to stop.

    It holds its fire while nothing is done: after eight deaths in a row a pool gives up what waits.
    """

    pool: bireme.Pool
    interval: float
    seed: int
    deaths: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Killer:
        self._thread = threading.Thread(target=self._run, name="killer")
        self._thread.start()
        return self

    def _run(self) -> None:
        dice = random.Random(self.seed)
        items, mercy = 0, _MERCY
        while not self._stop.wait(dice.expovariate(1 / self.interval)):
            if (done := self.pool.statistics()["items"]) != items:
                items, mercy = done, _MERCY
            pids = self.pool.worker_pids()
            if mercy and pids and kill_descendant(dice.choice(pids)):
                self.deaths += 1
                mercy -= 1

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@dataclass
class Report:
    """What a run of chaos has seen."""

    tasks: int
    deaths: int
    right: int
    died: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks, {self.deaths} workers killed: {self.right} right, "
            f"{self.died} ended by a death, {self.seconds:.1f} s"
        )


class Ledger:
    """A file with one counter a task, shared with all workers."""

    def __init__(self, count: int) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="bireme-chaos-")
        self.path = str(Path(self.folder.name) / "ledger")
        Path(self.path).write_bytes(bytes(max(count, 1)))

    def counts(self) -> bytes:
        return Path(self.path).read_bytes()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()


def run_chaos(
    count: int,
    *,
    interval: float = 0.01,
    workers: int = 3,
    retries: int = 0,
    start_method: str = "template",
    seed: int = 0,
    kind: str = "apply_async",
) -> Report:
    """Run `count` tasks under deaths and check every promise.

    Parameters
    ----------
    count : int
        Number of tasks.
    interval : float
        Mean seconds between two kills.
    kind : {"apply_async", "imap", "bytes"}
        How the tasks are submitted; ``"bytes"`` sends blocks through the arena.

    Raises
    ------
    AssertionError
        When a promise is broken; the seed is part of the message.
    """
    before = len(descendants(os.getpid()))
    began = time.monotonic()
    submit = {"apply_async": _submit_single, "imap": _submit_chunks, "bytes": _submit_bytes}[kind]
    with Ledger(count) as ledger, bireme.Pool(workers, start_method=start_method) as pool:
        with Killer(pool, interval, seed) as killer:
            ends = submit(pool, ledger, count, retries, random.Random(seed))
        told = f"seed {seed}, {kind}, {start_method}, {killer.deaths} deaths"
        _check_pool(pool, workers, told)
        counts = Counter(ledger.counts())
    pool.join()
    assert len(ends) == count, f"{count - len(ends)} tasks have no end: {told}"
    wrong = [(i, end) for i, end in ends.items() if end is not None and not _is_right(i, end)]
    assert not wrong, f"wrong values {wrong[:5]}: {told}"
    most = max(counts)
    assert most <= 1 + retries, f"a task was begun {most} times: {told}"
    assert poll(lambda: len(descendants(os.getpid())) <= before + 1, timeout=10), told
    died = sum(end is None for end in ends.values())
    if retries == 0:
        assert died <= killer.deaths * _CHUNK, f"{died} tasks failed: {told}"
    return Report(count, killer.deaths, count - died, died, time.monotonic() - began)


_CHUNK = 4  # items a dead worker can take along


def _is_right(index: int, end: Any) -> bool:
    return tuple(end[:2]) == (index, index * index) and all(b == _block(index) for b in end[2:])


def _block(index: int) -> bytes:
    return index.to_bytes(8, "little") * (1 + index * 7919 % 20_000)


def _check_pool(pool: bireme.Pool, workers: int, told: str) -> None:
    """The pool is whole: right values, all workers."""
    assert pool.map_async(abs, range(-200, 0), 1).get(_WAIT) == list(range(200, 0, -1)), told
    assert poll(lambda: len(set(pool.worker_pids())) == workers), told


def _submit_single(
    pool: bireme.Pool, ledger: Ledger, count: int, retries: int, dice: random.Random
) -> dict[int, Any]:
    tasks = ((work, (ledger.path, i, dice.randrange(300))) for i in range(count))
    return gather(pool.options(retries=retries), tasks, count)


def _submit_bytes(
    pool: bireme.Pool, ledger: Ledger, count: int, retries: int, dice: random.Random
) -> dict[int, Any]:
    tasks = ((work_on_bytes, (ledger.path, i, _block(i))) for i in range(count))
    return gather(pool.options(retries=retries), tasks, count)


def gather(
    pool: PoolView, tasks: Iterable[tuple[Callable[..., Any], tuple[Any, ...]]], count: int
) -> dict[int, Any]:
    """Submit, with at most 2,000 in flight, and collect; each task's callbacks are counted.

    The tasks' second argument is their index. Gives each one's value, or `None` for a death.
    """
    calls: Counter[int] = Counter()
    pending: dict[int, Any] = {}
    ends: dict[int, Any] = {}

    def collect(index: int) -> None:
        try:
            ends[index] = pending.pop(index).get(_WAIT)
        except bireme.WorkerDiedError:
            ends[index] = None

    for function, args in tasks:
        index = args[1]
        note = _Note(calls, index)
        pending[index] = pool.apply_async(function, args, {}, note, note)
        if len(pending) >= 2000:
            collect(next(iter(pending)))
    while pending:
        collect(next(iter(pending)))
    assert poll(lambda: len(calls) == count, timeout=_WAIT), (
        f"{count - len(calls)} without callback"
    )
    assert set(calls.values()) <= {1}, "a callback came twice"
    return ends


class _Note:
    """A callback that counts itself."""

    def __init__(self, calls: Counter[int], index: int) -> None:
        self.calls, self.index = calls, index

    def __call__(self, _: object) -> None:
        self.calls[self.index] += 1


def work_on_pair(triple: tuple[str, int, int]) -> tuple[int, int]:
    """Take what `work` takes as one item."""
    return work(*triple)


def _submit_chunks(
    pool: bireme.Pool, ledger: Ledger, count: int, retries: int, dice: random.Random
) -> dict[int, Any]:
    items = [(ledger.path, i, dice.randrange(300)) for i in range(count)]
    it = pool.imap(work_on_pair, items, chunksize=_CHUNK, retries=retries)
    ends: dict[int, Any] = {}
    blamed: dict[int, int] = {}
    for index in range(count):
        try:
            ends[index] = it.next(_WAIT)
        except bireme.WorkerDiedError as error:
            blamed[index] = error.item
            ends[index] = None
    assert all(index == item for index, item in blamed.items()), f"wrong items blamed: {blamed}"
    return ends
