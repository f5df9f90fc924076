"""A hundred tasks read one 256 MB array that the caller gives once, in each way in which people give it."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from benches.compare.memory import peak_footprint
from benches.compare.model import Bar, Figures, Workload, at_most
from benches.compare.peers import opened

if TYPE_CHECKING:
    from collections.abc import Callable

WORKLOAD = Workload(
    title="100 tasks reading one 256 MB array given once",
    contenders=("bireme", "pool-fork", "executor", "joblib", "ray", "loop"),
    headline="tuple_s",
    bars=(
        *(
            Bar(f"{way}: ≥ 3 x joblib", 1 / 3, f"{way}_s", "joblib", "tuple_s")
            for way in ("tuple", "closure", "partial", "initializer")
        ),
        at_most(1.1 * 2**28, "extra_bytes", text="one copy: ≤ 1.1 x 256 MB"),
    ),
    repeats=3,
    note="Each task sums its hundredth. Pools that live on have seen a small array before: their workers have imported "
    "NumPy. Every way gets an array of its own, so each figure holds one transfer of 256 "
    "MB. joblib and Ray get it as an argument (memmap; `put`). `Pool` and `ProcessPoolExecutor` would pickle the array "
    "a hundred times (27 GB): they inherit it over fork, by an initializer, as careful users do; that time includes the "
    "pool's start, as it does in bireme's `initializer_s`. `extra_bytes`: the peak, above what it was before the call, of "
    "the private pages (PSS) of the process tree and all shared memory, in a pool of its own that has seen no such array; the caller's own array is not in it. An array that changes between two calls is left to the "
    "rows above: joblib gives its workers the old values then.",
)

LENGTH = 2**25  # doubles: 256 MiB
PART = LENGTH // 100
_given: list[np.ndarray] = []


def part_sum(array: np.ndarray, part: int) -> float:
    """Return the sum of one hundredth of `array`."""
    return float(array[part * PART : (part + 1) * PART].sum())


def spread(pair: tuple[np.ndarray, int]) -> float:
    """Call `part_sum` with a tuple, for contenders without ``starmap``."""
    return part_sum(*pair)


def remember(array: np.ndarray) -> None:
    """Keep the array in this worker."""
    _given[:] = [array]


def remembered_sum(part: int) -> float:
    """Return the sum of one hundredth of the array that `remember` kept."""
    return part_sum(_given[0], part)


def by_initializer(contender: str, array: np.ndarray) -> list[float]:
    """Start a pool whose initializer gets the array, and run the tasks on it."""
    with opened(contender, warm=False, initializer=remember, initargs=(array,)) as peer:
        return list(peer.map(remembered_sum, range(100)))


def ways(contender: str, peer: Any) -> dict[str, Callable[[np.ndarray], list[float]]]:
    """Return the ways in which this contender is given the array."""

    def closure(array: np.ndarray) -> list[float]:
        return list(peer.map(lambda part: part_sum(array, part), range(100)))

    if contender in {"pool-fork", "executor"}:
        return {"initializer_s": lambda array: by_initializer(contender, array)}
    if contender != "bireme":
        return {"tuple_s": lambda array: many(peer, array)}
    return {
        "tuple_s": lambda array: list(
            peer.pool.starmap(part_sum, [(array, part) for part in range(100)])
        ),
        "closure_s": closure,
        "partial_s": lambda array: list(peer.map(partial(part_sum, array), range(100))),
        "initializer_s": lambda array: by_initializer(contender, array),
    }


def many(peer: Any, array: np.ndarray) -> list[float]:
    """Give the array to a hundred tasks of a peer without ``starmap``; Ray stores it once, by ``put``."""
    if hasattr(peer, "ray"):
        reference, submit = peer.ray.put(array), peer.remote(part_sum).remote
        return list(peer.ray.get([submit(reference, part) for part in range(100)]))
    return list(peer.map(spread, [(array, part) for part in range(100)]))


def timed(run: Callable[[np.ndarray], list[float]], name: str, value: float) -> float:
    """Return the seconds for a hundred tasks on an array of this value."""
    array = np.full(LENGTH, value)
    if name != "initializer_s":
        run(array[:16])  # the pool's workers import NumPy now, not under the clock
    start = perf_counter()
    sums = run(array)
    elapsed = perf_counter() - start
    assert sums == [PART * value] * 100, f"{name}: a sum is wrong"
    return elapsed


def extra_bytes(run: Callable[[np.ndarray], list[float]], name: str) -> float:
    """Return how far the memory rises for the array, in a pool that has seen none of its size yet."""
    array = np.full(LENGTH, 9.0)
    with peak_footprint() as small:
        run(array[:16])
    with peak_footprint() as large:
        sums = run(array)
    assert sums == [PART * 9.0] * 100, f"{name}: a sum of the second pass is wrong"
    # Each run of an initializer has workers of its own, which are not the array.
    return large.extra_bytes - (small.extra_bytes if name == "initializer_s" else 0)


def measure(contender: str, quick: bool) -> Figures:
    """Time each way with an array of its own; watch the memory in passes that are not timed."""
    figures: Figures = {}
    with opened(contender) as peer:
        for seed, (name, run) in enumerate(ways(contender, peer).items()):
            figures[name] = timed(run, name, 1.0 + seed)
    for name in list(figures):
        if quick and name != "tuple_s":
            continue
        with opened(contender) as peer:
            run = ways(contender, peer)[name]
            figures[name.replace("_s", "_extra_bytes")] = extra_bytes(run, name)
    figures["extra_bytes"] = max(
        value for name, value in figures.items() if name.endswith("extra_bytes")
    )
    return figures
