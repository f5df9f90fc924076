"""Five workers, fourteen numbers, chunks of three: who computes what.

The textbook example of a process pool. `chunksize=3` makes five dispatches of 3, 3, 3, 3 and 2 numbers, and each chunk
is computed by one worker, which the process ids show.

    python examples/five_agents.py
    python examples/five_agents.py --numbers 20 --seconds 0
"""

import argparse
import os
import time

import bireme


def agent(number, seconds):
    """Return the square of a number, and who computed it when."""
    start = time.monotonic()
    time.sleep(seconds)  # long enough that every agent finds a chunk to take
    return number * number, os.getpid(), start


def main():
    """Map the numbers, then show the chunks as the workers saw them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--numbers", type=int, default=14)
    parser.add_argument("--chunksize", type=int, default=3)
    parser.add_argument("--agents", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.05, help="how long a number takes")
    options = parser.parse_args()
    numbers = list(range(1, options.numbers + 1))

    with bireme.Pool(options.agents) as pool:
        pool.map(abs, range(10 * options.agents), 1)  # a trivial round, so that all are awake
        begin = time.monotonic()
        results = pool.map(
            lambda number: agent(number, options.seconds), numbers, options.chunksize
        )
        elapsed = time.monotonic() - begin

    squares = [square for square, _, _ in results]
    assert squares == [number * number for number in numbers]

    print(f"{'dispatch':<10}{'worker':<10}{'after':>8}   numbers and squares")
    workers = set()
    chunks = range(0, len(numbers), options.chunksize)
    for dispatch, first in enumerate(chunks, start=1):
        chunk = results[first : first + options.chunksize]
        pids = {pid for _, pid, _ in chunk}
        assert len(pids) == 1, f"dispatch {dispatch} was split among {pids}"
        workers |= pids
        pairs = zip(numbers[first:], (square for square, _, _ in chunk), strict=False)
        print(
            f"{dispatch:<10}{pids.pop():<10}{(chunk[0][2] - begin) * 1000:>5.0f} ms   "
            + "  ".join(f"{number}² = {square}" for number, square in pairs)
        )
    assert len(workers) <= options.agents
    alone = options.seconds * len(numbers)
    print(
        f"\n{len(chunks)} dispatches to {len(workers)} workers in {elapsed * 1000:.0f} ms; "
        f"one agent alone would need {alone * 1000:.0f} ms."
    )


main()  # without a guard: bireme's workers never run this file
