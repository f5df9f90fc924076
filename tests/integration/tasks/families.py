"""Tasks that start processes, and what an initializer started for them."""

from __future__ import annotations

import os
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


def leave_running(marker: str, env: dict[str, str] | None = None) -> int:
    """Start a program and return while it runs."""
    child = subprocess.Popen(["sleep", "3600"], env=env)
    child.returncode = 0  # not our warning
    Path(marker).touch()
    return child.pid


def run_program_after(gate: str, marker: str) -> int:
    """Return the exit code of a program that runs until `gate` is there."""
    command = f"touch {marker}; while ! [ -e {gate} ]; do sleep 0.01; done"
    return subprocess.run(["sh", "-c", command], check=False).returncode


_known: dict[str, int] = {}


def remember_ended() -> None:
    """Start processes that end at once, and keep of them what is needed to wait: an object, a number."""
    global _helper
    _helper = subprocess.Popen(["sh", "-c", "exit 7"])
    _known["pid"] = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 8"], {})


def remembered() -> tuple[int, int]:
    """Return the exit codes of those processes, which only their parent can be told."""
    assert _helper is not None
    return _helper.wait(), os.waitstatus_to_exitcode(os.waitpid(_known["pid"], 0)[1])


def leave_orphans(number: int) -> None:
    """Have shells start programs for which they do not wait."""
    for _ in range(number):
        os.system("true &")


def count_zombies() -> int:
    """Return how many children of this process have ended, and were not waited for."""
    own = str(os.getpid())
    fields = [_state_and_parent(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return fields.count(["Z", own])


def _state_and_parent(pid: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return []
