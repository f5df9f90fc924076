"""Tasks that start processes, and what an initializer started for them."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

_helper: subprocess.Popen[bytes] | None = None


def start_helper(folder: str) -> None:
    """Start a process that is the worker's for life; an initializer."""
    global _helper
    _helper = subprocess.Popen(["sleep", "3600"])
    (Path(folder) / str(_helper.pid)).touch()


def helper_ended() -> int | None:
    """Return how the helper ended; None while it lives."""
    assert _helper is not None
    return _helper.poll()


def stop_helper() -> int:
    assert _helper is not None
    _helper.kill()
    return _helper.wait()


def run_or_hang(number: int) -> int:
    """Run a short program, as odd numbers do, or take for ever."""
    if number % 2:
        return subprocess.run(["sleep", "0.05"], check=False).returncode
    while True:
        time.sleep(0.01)


def start_and_hang(marker: str, orphan: bool) -> None:
    """Have a shell start a program, alone or as a child of a shell that waits for it, and take for ever."""
    wait = "" if orphan else "; wait"
    subprocess.run(["sh", "-c", f"sleep 3600 & echo $! > {marker}{wait}"], check=True)
    time.sleep(3600)


def leave_running(marker: str) -> int:
    """Start a program and return while it runs."""
    child = subprocess.Popen(["sleep", "3600"])
    child.returncode = 0  # not our warning
    Path(marker).touch()
    return child.pid


def run_program_after(gate: str, marker: str) -> int:
    """Return the exit code of a program that runs until `gate` is there."""
    command = f"touch {marker}; while ! [ -e {gate} ]; do sleep 0.01; done"
    return subprocess.run(["sh", "-c", command], check=False).returncode
