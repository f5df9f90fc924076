"""A 256 MB array as the argument of ``np.sum``: how fast large data reaches a worker."""

from __future__ import annotations

from statistics import median
from time import perf_counter

import numpy as np

from benches.compare.model import EVERYONE, Figures, Workload, at_most, faster
from benches.compare.peers import opened

WORKLOAD = Workload(
    title="256 MB array as argument of `np.sum`, after one warm-up transfer",
    contenders=EVERYONE,
    headline="warm_s",
    bars=(
        faster(8, "pool-fork", "warm_s"),
        faster(0.9, "ray", "warm_s"),
        at_most(0.268 / (0.9 * 2.9), "warm_s", text="≥ 0.9 x Ray's 2.9 GB/s"),
    ),
    repeats=3,
    note="The first transfer is `first_s`. One element changes before every call, so that no contender may answer "
    "from a copy it kept. 2.9 GB/s is "
    "what Ray's `put` and use reached on a machine of this kind; Ray itself takes part where it is installed. "
    "joblib fails here: it sums the file that it wrote for the first call.",
)

LENGTH = 2**25  # doubles: 256 MiB


def measure(contender: str, quick: bool) -> Figures:
    """Time the first call, then the median of the next ones."""
    array = np.ones(LENGTH)
    with opened(contender) as peer:

        def timed(data: np.ndarray, value: int) -> float:
            data[value] = 1 + value
            expected = LENGTH + value * (value + 1) // 2
            start = perf_counter()
            total = peer.call(np.sum, data)
            elapsed = perf_counter() - start
            assert total == expected, f"the sum is {total}, not {expected}"
            return elapsed

        times = [timed(array, value) for value in range(3 if quick else 4)]
        return {"first_s": times[0], "warm_s": median(times[1:])}
