"""A 256 MB array made by the worker: how fast large results come home."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from benches.compare.model import EVERYONE, Bar, Figures, Workload, at_most, faster
from benches.compare.peers import opened

if TYPE_CHECKING:
    from collections.abc import Callable

WORKLOAD = Workload(
    title="256 MB array made by the worker as result, warm",
    contenders=EVERYONE,
    headline="warm_s",
    bars=(
        faster(10, "pool-fork", "warm_s"),
        faster(1, "ray", "warm_s"),
        at_most(0.268 / 1.4, "warm_s", text="≥ Ray's 1.4 GB/s"),
        Bar("`shared.empty`: ≤ 1.1 x the loop", 1.1, "shared_s", "loop", "warm_s", reach=True),
    ),
    repeats=3,
    note="The task makes its array with `np.full`, whose own price is the plain loop's figure. `first_s`: the first "
    "result; each worker has a first one of its own, so `warm_s` is the median of five. `held_s`: the worker keeps the array, so that a copy is due. "
    "`shared_s`: the task makes its array with `bireme.shared.empty`. "
    "`read_s`: the caller's first pass over a result, so that no lazy mapping hides its price.",
)

LENGTH = 2**25  # doubles: 256 MiB
_held: list[np.ndarray] = []


def made(value: int) -> np.ndarray:
    """Return a new array full of `value`."""
    return np.full(LENGTH, float(value))


def shared(value: int) -> np.ndarray:
    """Return a new array in shared memory, full of `value`."""
    from bireme import shared

    array = shared.empty(LENGTH)
    array[:] = value
    return array


def held(value: int) -> np.ndarray:
    """Return an array that stays in the worker, its first element set to `value`."""
    if not _held:
        _held.append(np.zeros(LENGTH))
    _held[0][0] = value
    return _held[0]


def measure(contender: str, quick: bool) -> Figures:
    """Time the first result and the median of the next ones."""
    with opened(contender) as peer:

        def timed(
            task: Callable[[int], np.ndarray], value: int, total: float
        ) -> tuple[float, float]:
            start = perf_counter()
            array = peer.call(task, value)
            received = perf_counter()
            result = float(array.sum())
            read = perf_counter() - received
            assert (array[0], result) == (value, total), (
                f"array of {value}: starts {array[0]}, sums to {result}"
            )
            return received - start, read

        rounds = range(1, 5 if quick else 7)
        times = [timed(made, value, LENGTH * value) for value in rounds]
        figures = {"first_s": times[0][0], "warm_s": median(t for t, _ in times[1:])}
        figures["read_s"] = median(read for _, read in times[1:])
        if contender.startswith("bireme"):
            figures["held_s"] = median([timed(held, value, value)[0] for value in rounds][1:])
            shared_s = [timed(shared, value, LENGTH * value)[0] for value in rounds]
            figures["shared_s"] = median(shared_s[1:])
    return figures
