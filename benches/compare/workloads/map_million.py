"""A million squares with the default chunks: what is left of a map when the items cost nothing."""

from __future__ import annotations

from time import perf_counter

from benches.compare.model import MAPPERS, Figures, Workload, faster
from benches.compare.peers import opened

WORKLOAD = Workload(
    title="`map(square, range(1_000_000))`, default chunks",
    contenders=MAPPERS,
    bars=(
        faster(1.8, "pool-fork"),
        faster(2.5, "pool-fork", reach=True),
        faster(1, "loop", reach=True),
    ),
    repeats=3,
    note="Executors get `Pool`'s chunk size, their own default being 1. Threads, joblib and Ray make an object an "
    "item here and are left out.",
)


def square(number: int) -> int:
    """Return the square of a number."""
    return number * number


def measure(contender: str, quick: bool) -> Figures:
    """Time one map over a million numbers."""
    numbers = range(200_000 if quick else 1_000_000)
    with opened(contender) as peer:
        start = perf_counter()
        squares = peer.map(square, numbers)
        elapsed = perf_counter() - start
    assert squares == [number * number for number in numbers], "a square is wrong"
    return {"total_s": elapsed * 1_000_000 / len(numbers)}
