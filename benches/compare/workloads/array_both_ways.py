"""A 1 MB array there and back: the middle ground between a message and a transfer."""

from __future__ import annotations

from statistics import median
from time import perf_counter

import numpy as np

from benches.compare.model import EVERYONE, Figures, Workload, at_most, faster
from benches.compare.peers import identity, opened

WORKLOAD = Workload(
    title="1 MB array there and back",
    contenders=EVERYONE,
    headline="p50_s",
    bars=(
        faster(8, "pool-fork", "p50_s"),
        faster(6, "executor", "p50_s"),
        at_most(0.3e-3, "p50_s", reach=True),
    ),
    note="The task returns its argument. One element changes before every call.",
)


def measure(contender: str, quick: bool) -> Figures:
    """Time single calls, the first ten apart."""
    array = np.arange(2**17, dtype=np.float64)  # 1 MiB
    samples = []
    with opened(contender) as peer:
        for value in range(60 if quick else 210):
            array[-1] = value
            start = perf_counter()
            back = peer.call(identity, array)
            samples.append(perf_counter() - start)
            assert np.array_equal(back, array), "the array came back changed"
    return {"first_s": samples[0], "p50_s": median(samples[10:])}
