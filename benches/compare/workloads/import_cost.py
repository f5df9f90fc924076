"""What importing costs above a bare interpreter."""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from time import perf_counter

from benches.compare.model import Figures, Workload, at_most
from benches.compare.programs import run

IMPORTS = {
    "bireme": "bireme",
    "pool-fork": "multiprocessing.pool",
    "executor": "concurrent.futures.process",
    "joblib": "joblib",
    "loky": "loky",
    "mpire": "mpire",
    "ray": "ray",
}

WORKLOAD = Workload(
    title="`import bireme` above bare Python",
    contenders=tuple(IMPORTS),
    bars=(at_most(0.025, "above_s"),),
    headline="above_s",
    repeats=3,
    note="`above_s`: median wall time of `python -c 'import …'` less that of `python -c pass`, alternating; "
    "`importtime_s`: what `-X importtime` sums up.",
)


def measure(contender: str, quick: bool) -> Figures:
    """Alternate bare and importing interpreters; then ask the interpreter itself."""
    module = IMPORTS[contender]
    bare, full = [], []
    for _ in range(4 if quick else 8):
        bare.append(wall("pass"))
        full.append(wall(f"import {module}"))
    return {"above_s": median(full) - median(bare), "importtime_s": importtime(module)}


def wall(code: str) -> float:
    """Return the wall time of an interpreter that runs `code`."""
    start = perf_counter()
    run([sys.executable, "-c", code])
    return perf_counter() - start


def importtime(module: str) -> float:
    """Return the cumulative seconds that ``-X importtime`` gives for `module` and its parents."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    top = module.partition(".")[0]
    total = 0
    for line in report.splitlines():
        _, cumulative, name = line.rpartition("import time:")[2].split("|")
        if name.rstrip() in {f" {top}", f" {module}"}:  # one space: not imported by another module
            total += int(cumulative)
    return total / 1e6
