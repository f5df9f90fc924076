"""Five workers, chunks of three: ten thousand small messages, as the textbook example asks for."""

from __future__ import annotations

from time import perf_counter

from benches.compare.model import MAPPERS, Figures, Workload, faster
from benches.compare.peers import opened
from benches.compare.workloads.map_million import square

WORKLOAD = Workload(
    title="`Pool(5).map(square, 30,000 numbers, chunksize=3)`",
    contenders=MAPPERS,
    bars=(faster(10, "pool-fork"),),
)


def measure(contender: str, quick: bool) -> Figures:
    """Time one map with an explicit chunk size of three."""
    numbers = list(range(6_000 if quick else 30_000))
    with opened(contender, workers=5) as peer:
        start = perf_counter()
        squares = peer.map(square, numbers, 3)
        elapsed = perf_counter() - start
    assert squares == [number * number for number in numbers], "a square is wrong"
    return {"total_s": elapsed * 30_000 / len(numbers)}
