"""From the start of the interpreter to the first result of a pool of two, as a user's script sees it."""

from __future__ import annotations

from statistics import median
from time import monotonic

from benches.compare.model import Figures, Workload, within
from benches.compare.programs import POOLS, run, script

WORKLOAD = Workload(
    title="first result after interpreter start, 2 workers",
    contenders=(*POOLS, "interpreter"),
    bars=(within(0.7, "pool-forkserver"), within(1.0, "pool-fork", contender="bireme-fork")),
    headline="total_s",
    repeats=5,
    note="Each is a script of its own with its function in `__main__`, timed from just before its process is "
    "started to the moment the first results are there; the clock is the system's monotonic one.",
)


def measure(contender: str, quick: bool) -> Figures:
    """Run the script several times; it prints the time at which it had its results."""
    samples = []
    with script(contender, "print(time.monotonic(), flush=True)") as command:
        for _ in range(2 if quick else 3):
            start = monotonic()
            samples.append(float(run(command)) - start)
    return {"total_s": median(samples)}
