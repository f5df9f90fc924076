"""CPU work of a known size whose result can be checked without doing it again.

A task steps a linear congruential generator. Where it must arrive after n steps follows from the
closed form ``x_n = a^n x_0 + c (a^n - 1) / (a - 1)  (mod m)``, in O(log n).
"""

from __future__ import annotations

import random
from multiprocessing import get_context
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MULTIPLIER, INCREMENT, MODULUS = 1103515245, 12345, 2**31  # the C standard's example of rand()

#: Steps that take about a millisecond of one core; only the size of the tasks hangs on it.
STEPS_PER_MS = 4_500


def burn(steps: int) -> int:
    """Step the generator `steps` times from 1."""
    state = 1
    for _ in range(steps):
        state = (state * MULTIPLIER + INCREMENT) % MODULUS
    return state


def expected(steps: int) -> int:
    """Return what `burn` returns, by the closed form."""
    wide = MODULUS * (MULTIPLIER - 1)
    power = pow(MULTIPLIER, steps, wide)
    return (power + INCREMENT * ((power - 1) // (MULTIPLIER - 1))) % MODULUS


def heavy_tailed(count: int, seed: int = 1) -> list[int]:
    """Return steps for `count` tasks: log-normal, median 10 ms, cut to 3..500 ms."""
    draw = random.Random(seed)
    times_ms = (min(500.0, max(3.0, draw.lognormvariate(2.3, 1.25))) for _ in range(count))
    return [round(time_ms * STEPS_PER_MS) for time_ms in times_ms]


def longest_first(tasks: Sequence[int], parts: int = 2) -> list[list[int]]:
    """Split tasks among `parts`, the longest first, each to the least loaded (Graham 1969).

    For two parts and hundreds of tasks the split is within one short task of the optimum.
    """
    split: list[list[int]] = [[] for _ in range(parts)]
    for task in sorted(tasks, reverse=True):
        min(split, key=sum).append(task)
    return split


def two_bare_processes(tasks: Sequence[int]) -> tuple[float, list[int]]:
    """Run tasks in two forked processes that know their share beforehand: what the machine can do.

    Returns
    -------
    tuple of (float, list of int)
        The seconds from the starting shot until both have delivered, and the results in task order.
    """
    shares = longest_first(tasks)
    context = get_context("fork")
    ends = [context.Pipe() for _ in shares]
    processes = [
        context.Process(target=_bare, args=(theirs, share), daemon=True)
        for (_, theirs), share in zip(ends, shares, strict=True)
    ]
    for process in processes:
        process.start()
    for ours, _ in ends:
        ours.recv()  # ready
    start = perf_counter()
    for ours, _ in ends:
        ours.send("go")
    found = {
        task: result
        for (ours, _), share in zip(ends, shares, strict=True)
        for task, result in zip(share, ours.recv(), strict=True)
    }
    elapsed = perf_counter() - start
    for process in processes:
        process.join()
    return elapsed, [found[task] for task in tasks]


def _bare(end: object, share: Sequence[int]) -> None:
    end.send("ready")  # type: ignore[attr-defined]
    end.recv()  # type: ignore[attr-defined]
    end.send([burn(steps) for steps in share])  # type: ignore[attr-defined]
