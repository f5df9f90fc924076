"""100 tasks of a closure over a 100 MB array: how often the array crosses."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from benches.compare.model import Bar, Figures, Workload, at_most
from benches.compare.peers import opened

WORKLOAD = Workload(
    title="100 MB array captured by a closure, 100 tasks",
    contenders=("bireme", "pool-fork", "executor", "loky", "joblib", "loop"),
    bars=(
        at_most(2.2 * 100e6, "first_sent_bytes", text="crosses once per worker"),
        at_most(1000, "task_sent_bytes", text="then < 1 kB a task"),
        Bar("≥ 1 x `Pool`, fork", 1, "again_s", "pool-fork", reach=True),
    ),
    headline="again_s",
    repeats=3,
    timeout_s=120,
    note="`first_s` is the first map of 100 tasks, `again_s` the second with the same closure. `Pool` and "
    "`ProcessPoolExecutor` cannot pickle a closure: they get `functools.partial` over a module's function, and pickle "
    "it once a chunk. The bytes are bireme's own count (`pool.statistics()`); nobody else keeps one.",
)

LENGTH = 12_500_000  # doubles: 100 MB


def element(array: np.ndarray, index: int) -> float:
    """Return one element."""
    return float(array[index])


def sent(peer: Any) -> float:
    """Return the bytes that the pool says it has sent."""
    return float(peer.pool.statistics()["bytes_sent"])


def measure(contender: str, quick: bool) -> Figures:
    """Time two maps of the same function and read the pool's own count of bytes."""
    del quick
    array = np.arange(LENGTH, dtype=np.float64)
    if contender in {"pool-fork", "executor"}:
        function: Any = partial(element, array)
    else:
        function = lambda index: float(array[index])  # noqa: E731
    indices = range(100, LENGTH, LENGTH // 100)[:100]
    figures: Figures = {}
    with opened(contender) as peer:
        for round_name in ("first", "again"):
            before = sent(peer) if contender == "bireme" else 0.0
            start = perf_counter()
            elements = peer.map(function, indices)
            figures[f"{round_name}_s"] = perf_counter() - start
            assert elements == [float(index) for index in indices], "an element is wrong"
            if contender == "bireme":
                figures[f"{round_name}_sent_bytes"] = sent(peer) - before
    if contender == "bireme":
        assert figures["first_sent_bytes"] > array.nbytes, "bytes_sent leaves out the array"
        figures["task_sent_bytes"] = figures.pop("again_sent_bytes") / len(indices)
    return figures
