"""64 tasks of 30 ms CPU: what a pool of two adds to the work itself."""

from __future__ import annotations

from time import perf_counter

from benches.compare.cpu import STEPS_PER_MS, burn, expected, two_bare_processes
from benches.compare.model import Figures, Workload, faster
from benches.compare.peers import opened

WORKLOAD = Workload(
    title="64 tasks of 30 ms CPU",
    contenders=(
        "bireme",
        "bireme-fork",
        "pool-fork",
        "executor",
        "threads",
        "loky",
        "joblib",
        "mpire",
        "bare",
        "loop",
    ),
    bars=(faster(0.95, "bare"),),
    repeats=3,
    note="The bar compares speed-ups over the same loop, so it is the ratio of the two times.",
)


def measure(contender: str, quick: bool) -> Figures:
    """Time one map from its call to its last result."""
    tasks = [30 * STEPS_PER_MS + number for number in range(16 if quick else 64)]
    if contender == "bare":
        elapsed, results = two_bare_processes(tasks)
    else:
        with opened(contender) as peer:
            start = perf_counter()
            results = peer.map(burn, tasks)
            elapsed = perf_counter() - start
    assert results == [expected(steps) for steps in tasks], "a result is wrong"
    return {"total_s": elapsed}
