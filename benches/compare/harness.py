"""Run rows: a fresh process per measurement, contenders interleaved, their order rotated every round.

Whatever happens to a measurement ends as a sample or as a sentence: not installed, an exception, a
wrong value, a crash, or no answer in time. A contender that failed once is not asked again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from benches.compare.peers import installed
from benches.compare.programs import last_line
from benches.compare.workloads import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benches.compare.model import Figures, Workload

ROOT = Path(__file__).resolve().parents[2]


class Outcome(TypedDict):
    """What one contender did in one row: its samples, one a process, and why there are no more."""

    runs: list[Figures]
    failure: str | None


Row = dict[str, Outcome]


def run_row(
    name: str, *, quick: bool, wanted: Callable[[str], bool], say: Callable[[str], None]
) -> Row:
    """Measure one row with all its contenders.

    Parameters
    ----------
    name : str
        The workload's module name.
    quick : bool
        Small sizes, one round, and only the contenders that a bar names.
    wanted : callable
        Which contenders take part.
    say : callable
        Told before each measurement what is measured.
    """
    workload = load(name).WORKLOAD
    contenders = workload.judged() if quick else workload.contenders
    row: Row = {
        contender: {"runs": [], "failure": None} for contender in contenders if wanted(contender)
    }
    for round_number in range(1 if quick else workload.repeats):
        for contender in rotated(list(row), round_number):
            outcome = row[contender]
            if outcome["failure"] is not None or round_number >= workload.rounds(contender):
                continue
            say(f"{name}: {contender}, round {round_number + 1}")
            if not installed(contender):
                outcome["failure"] = "not installed"
                continue
            figures = measured(name, contender, workload, quick=quick)
            if isinstance(figures, str):
                outcome["failure"] = figures
            else:
                outcome["runs"].append(figures)
    return row


def rotated(contenders: Sequence[str], by: int) -> list[str]:
    """Return the contenders starting with another one each round.

    Examples
    --------
    >>> rotated(["a", "b", "c"], 4)
    ['b', 'c', 'a']
    """
    start = by % max(1, len(contenders))
    return [*contenders[start:], *contenders[:start]]


def environment() -> dict[str, str]:
    """Return the environment of a measurement: compiled modules are kept, as in any installation."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def measured(row: str, contender: str, workload: Workload, *, quick: bool) -> Figures | str:
    """Run one measurement in a process of its own; return its figures, or what went wrong."""
    size = "quick" if quick else "full"
    process = subprocess.Popen(
        [sys.executable, "-m", "benches.compare.measure", row, contender, size],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that a hung contender can be ended with all its workers
        env=environment(),
    )
    try:
        output, errors = process.communicate(timeout=workload.timeout_s)
    except BaseException as error:  # too late, or Ctrl-C: nothing of it may stay behind
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return f"no result within {workload.timeout_s:g} s"
        raise
    lines = output.strip().splitlines()
    if process.returncode:
        return f"exit {process.returncode}: {last_line(errors)}"
    try:
        report = json.loads(lines[-1])
    except (IndexError, ValueError):
        return f"no report; {last_line(errors)}"
    failure: str | None = report.get("failure")
    return failure if failure is not None else dict(report["figures"])
