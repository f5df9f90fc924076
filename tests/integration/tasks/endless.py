"""Tasks that do not end by themselves."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.integration.tasks.basic import record, runs, wait_for_file
from tests.integration.tasks.ends import stop_self


def loop_forever(marker: str | None = None) -> None:
    if marker:
        Path(marker).write_text(str(os.getpid()))
    while True:
        pass


def sleep_forever(marker: str | None = None) -> None:
    if marker:
        Path(marker).write_text(str(os.getpid()))
    time.sleep(3600)


def block_in_c(marker: str | None = None) -> None:
    """Sleep in C with the GIL held: no Python code of this process runs any more."""
    if marker:
        Path(marker).write_text(str(os.getpid()))
    libc = ctypes.PyDLL(None)
    for _ in range(3600):
        libc.sleep(3600)


def refuse_to_end(marker: str | None = None) -> None:
    """Swallow every exception and ignore every signal that can be ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if marker:
        Path(marker).write_text(str(os.getpid()))
    while True:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            continue


def record_or_refuse_to_end(directory: str, name: str) -> None:
    """Record it; the one named "refuses" records that it was asked to stop, and goes on."""
    record(directory, name)
    while name == "refuses":
        try:
            time.sleep(3600)
        except BaseException:
            record(directory, "asked")


def slow_hour(x: object) -> object:
    time.sleep(3600)
    return x


def stop_self_of(_: object) -> None:
    stop_self()


def start_daemon(marker: str) -> None:
    """Start a process in a session of its own whose parent ends at once, then wait."""
    program = (
        "import os, time\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        f"open({marker + '.partial'!r}, 'w').write(str(os.getpid()))\n"
        f"os.rename({marker + '.partial'!r}, {marker!r})\n"
        "time.sleep(3600)\n"
    )
    subprocess.run([sys.executable, "-S", "-c", program], check=True)
    time.sleep(3600)


def loop_with_cleanup(marker: str) -> None:
    Path(marker).write_text(str(os.getpid()))
    try:
        while True:
            pass
    finally:
        Path(marker + ".cleaned").touch()


def mark_and_wait(marker: str, gate: str) -> str:
    Path(marker).touch()
    wait_for_file(gate)
    return "waited"


def sleep_on(x: int, bad: int) -> int:
    if x == bad:
        time.sleep(3600)
    return x


def sleep_first_time(folder: str, x: int) -> int:
    """Take for ever at the first try of `x`; 2 never ends."""
    record(folder, x)
    if x == 2 or runs(folder, x) == 1:
        time.sleep(3600)
    return x


def slow_record(pair: tuple[str, int]) -> None:
    record(*pair)
    time.sleep(0.02)


def record_or_sleep(directory: str, x: int) -> None:
    """Record it; those divisible by five sleep for an hour then."""
    record(directory, str(x))
    if x % 5 == 0:
        time.sleep(3600)


def start_child(marker: str, wait: bool = True) -> int:
    """Start a process, write its pid to `marker`, and wait for it if asked to."""
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3600)"])
    partial = Path(marker + ".partial")
    partial.write_text(str(child.pid))
    partial.rename(marker)
    if wait:
        child.wait()
    child.returncode = 0 if child.returncode is None else child.returncode  # not our warning
    return child.pid
