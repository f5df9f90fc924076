"""20,000 empty calls submitted, then all results collected: the price of a task."""

from __future__ import annotations

import sys
from time import perf_counter
from types import CodeType, FunctionType
from typing import TYPE_CHECKING

from benches.compare.model import EVERYONE, Figures, Workload, faster
from benches.compare.peers import opened

if TYPE_CHECKING:
    from collections.abc import Callable

WORKLOAD = Workload(
    title="20,000 x `apply_async(noop)`, then get",
    contenders=EVERYONE,
    bars=(faster(20, "pool-fork"), faster(50, "executor")),
    repeats=7,
    note="On two cores a burst in which both workers stay awake beside the caller takes up to twice as long as one "
    "in which one worker keeps up: see the spread. `main_s` is the same burst with a function of `__main__`, which travels by value. "
    "joblib has no submission of single calls: it gets the 20,000 calls as one `Parallel`.",
)


def noop() -> int:
    """Do nothing, but return a value that can be checked."""
    return 7


def measure(contender: str, quick: bool) -> Figures:
    """Time one burst from the first submission to the last result."""
    count = 5_000 if quick else 20_000
    with opened(contender) as peer:

        def timed(function: Callable[[], int]) -> float:
            start = perf_counter()
            results = peer.burst(function, count)
            elapsed = perf_counter() - start
            assert results == [7] * count, "a result is wrong"
            return elapsed * 20_000 / count

        peer.burst(noop, 200)
        figures = {"total_s": timed(noop)}
        if contender == "bireme":
            figures["main_s"] = timed(as_main(noop.__code__))
        return figures


def as_main(code: CodeType) -> Callable[[], int]:
    """Return a function with this code that belongs to ``__main__``, as a script's own functions do."""
    main = sys.modules["__main__"]
    function = FunctionType(code, vars(main), "noop_of_main")
    function.__module__ = "__main__"
    vars(main)["noop_of_main"] = function
    return function
