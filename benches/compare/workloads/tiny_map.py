"""`bireme.map` on work too small to share: it must notice, and not be slower than the loop."""

from __future__ import annotations

import gc
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from benches.compare.cpu import burn
from benches.compare.model import Bar, Figures, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

CASES: dict[str, tuple[Callable[[int], int], list[int]]] = {
    "ten": (abs, list(range(10))),
    "thousand": (lambda number: number + 1, list(range(1_000))),
    "hundred_thousand": (lambda number: number + 1, list(range(100_000))),
    "middling": (burn, [225] * 20),  # 20 items of 50 µs
}

WORKLOAD = Workload(
    title="`bireme.map` on tiny work",
    contenders=("bireme", "loop"),
    bars=tuple(
        Bar(
            f"{text}: ≤ 1.1 x plain loop",
            1.1,
            f"{case}_s",
            "loop",
            f"{case}_s",
            reach=case == "ten",
        )
        for case, text in (
            ("thousand", "1,000 x `number + 1`"),
            ("hundred_thousand", "100,000 x `number + 1`"),
            ("middling", "20 x 50 µs"),
            ("ten", "10 x 30 ns"),
        )
    ),
    headline="thousand_s",
    note="The loop is `[function(item) for item in items]`. Ten items of nothing cost less than any call: no promise "
    "is made there.",
)


def measure(contender: str, quick: bool) -> Figures:
    """Return the median time of each case."""
    if contender == "loop":

        def run(function: Callable[[int], int], items: list[int]) -> list[int]:
            return [function(item) for item in items]
    else:
        import bireme

        def run(function: Callable[[int], int], items: list[int]) -> list[int]:
            return bireme.map(function, items)

    figures: Figures = {}
    for name, (function, items) in CASES.items():
        samples = []
        gc.collect()
        for _ in range(20 if quick or len(items) > 10_000 else 200):
            start = perf_counter()
            results = run(function, items)
            samples.append(perf_counter() - start)
            assert results == [function(item) for item in items], "a result is wrong"
        figures[f"{name}_s"] = median(samples)
    return figures
