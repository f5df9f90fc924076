"""How long the pool is one worker short: a new worker from the warm template, and a fresh one a task."""

from __future__ import annotations

import os
import signal
import time
from statistics import median
from time import perf_counter
from typing import Any

from benches.compare.model import Figures, Workload, at_most, faster
from benches.compare.peers import opened

WORKLOAD = Workload(
    title="a worker born from the warm template",
    contenders=("bireme", "bireme-fork", "pool-fork", "pool-spawn", "pool-forkserver"),
    bars=(at_most(0.005, "birth_s"), faster(1, "pool-forkserver", "fresh_task_s")),
    headline="fresh_task_s",
    repeats=3,
    note="`birth_s`: from asking for a worker to its being ready, as the pool itself recorded it "
    "(`pool.statistics()`). `replaced_s`: from an idle worker's SIGKILL to the answer of its successor, its "
    "death noticed in between; `Pool` is not asked, since it hangs for ever when the dead worker held the lock of its "
    "queue. `fresh_task_s`: one task with `maxtasksperchild=1`, a new worker each.",
)


def pid_of_task(seconds: float) -> int:
    """Return this worker's process id after a nap that lets the other worker take a task too."""
    time.sleep(seconds)
    return os.getpid()


def replaced(peer: Any) -> float:
    """Kill an idle worker and return the seconds until a task has run in a process that is new."""
    before = set(peer.pool.worker_pids())
    start = perf_counter()
    os.kill(min(before), signal.SIGKILL)
    while perf_counter() - start < 20:
        if set(peer.map(pid_of_task, [0.001, 0.001], 1)) - before:
            return perf_counter() - start
    raise TimeoutError("no new worker after 20 s")


def measure(contender: str, quick: bool) -> Figures:
    """Kill idle workers one at a time, then run tasks with a worker each."""
    figures: Figures = {}
    if contender.startswith("bireme"):
        with opened(contender) as peer:
            figures["replaced_s"] = median(replaced(peer) for _ in range(3 if quick else 9))
            birth_ms = peer.pool.statistics().get("birth_ms")
            figures["birth_s"] = figures["replaced_s"] if birth_ms is None else birth_ms / 1000
    count = 10 if quick else 30
    with opened(contender, warm=False, maxtasksperchild=1) as peer:
        peer.map(abs, [-1, -2], 1)
        start = perf_counter()
        results = [peer.call(abs, -number) for number in range(count)]
        figures["fresh_task_s"] = (perf_counter() - start) / count
        assert results == list(range(count)), "a result is wrong"
    return figures
