"""Estimate π by throwing darts: the same bits for any number of workers and any chunk size.

With `seed=` every task has random streams of its own, made from the seed and the task's index; `bireme.rng()` is the
NumPy generator of the task that runs. So the layout of the work cannot change the result, which this program proves
by running several layouts and comparing every single count.

    python examples/monte_carlo_pi.py
    python examples/monte_carlo_pi.py --tasks 40 --darts 10000 --seed 7
"""

import argparse
import math
import random
from time import perf_counter

import bireme

LAYOUTS = [(1, None), (2, None), (5, None), (1, 1), (2, 1), (5, 1), (2, 7), (5, 64)]


def hits(darts):
    """Throw darts at the unit square; count those in the quarter circle, and draw once from `random`."""
    x, y = bireme.rng().random((2, darts))
    return int((x * x + y * y < 1).sum()), random.random()


def main():
    """Run every layout, demand equal bits, print the estimate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--darts", type=int, default=100_000, help="per task")
    parser.add_argument("--seed", type=int, default=2718)
    options = parser.parse_args()

    first = None
    for workers, chunksize in LAYOUTS:
        with bireme.Pool(workers) as pool:
            start = perf_counter()
            counts = pool.map(hits, [options.darts] * options.tasks, chunksize, seed=options.seed)
            elapsed = perf_counter() - start
        first = first or counts
        assert counts == first, f"{workers} workers with chunks of {chunksize} drew other numbers"
        print(
            f"{workers} workers, chunks {chunksize or 'chosen':>6}: the same bits in {elapsed:.2f} s"
        )

    with bireme.Pool(2, seed=options.seed + 1) as pool:
        other = pool.map(hits, [options.darts] * options.tasks)
    assert other != first, "another seed drew the same numbers"

    darts = options.tasks * options.darts
    estimate = 4 * sum(count for count, _ in first) / darts
    error = 4 * math.sqrt(math.pi / 4 * (1 - math.pi / 4) / darts)
    print(
        f"\nπ ≈ {estimate:.6f} from {darts:,} darts; off by {abs(estimate - math.pi) / error:.1f} standard errors"
    )


main()  # without a guard: bireme's workers never run this file
