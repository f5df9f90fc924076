"""400 CPU tasks of very unequal length: are both cores busy to the end."""

from __future__ import annotations

from time import perf_counter

from benches.compare.cpu import burn, expected, heavy_tailed, two_bare_processes
from benches.compare.model import Figures, Workload, within
from benches.compare.peers import opened

WORKLOAD = Workload(
    title="400 heavy-tailed CPU tasks (few ms to half a second), makespan",
    contenders=("bireme", "pool-fork", "executor", "loky", "joblib", "mpire", "bare"),
    bars=(within(1.08, "bare"),),
    repeats=3,
    timeout_s=120,
    note="Default chunks for all; executors get `Pool`'s. Two bare processes know every length beforehand and "
    "start with an optimal split.",
)


def measure(contender: str, quick: bool) -> Figures:
    """Time one map from its call to its last result."""
    tasks = heavy_tailed(100 if quick else 400)
    if contender == "bare":
        elapsed, results = two_bare_processes(tasks)
    else:
        with opened(contender) as peer:
            start = perf_counter()
            results = peer.map(burn, tasks)
            elapsed = perf_counter() - start
    assert results == [expected(steps) for steps in tasks], "a result is wrong"
    return {"total_s": elapsed}
