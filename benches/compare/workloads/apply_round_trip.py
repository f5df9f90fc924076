"""One empty call there and back: the latency that a caller sees."""

from __future__ import annotations

from time import perf_counter

from benches.compare.model import EVERYONE, Figures, Workload, at_most, faster
from benches.compare.peers import opened
from benches.compare.workloads.apply_async_noop import noop

WORKLOAD = Workload(
    title="one `apply(noop)` there and back, p50",
    contenders=tuple(name for name in EVERYONE if name != "joblib"),
    headline="p50_s",
    bars=(
        faster(15, "pool-fork", "p50_s"),
        at_most(5e-6, "p50_s", reach=True),
    ),
)


def measure(contender: str, quick: bool) -> Figures:
    """Time single calls, one after the other."""
    samples = []
    with opened(contender) as peer:
        for _ in range(500 if quick else 3_000):
            start = perf_counter()
            result = peer.call(noop)
            samples.append(perf_counter() - start)
            assert result == 7, "a result is wrong"
    samples.sort()
    return {"p50_s": samples[len(samples) // 2], "p99_s": samples[len(samples) * 99 // 100]}
