"""Looking at processes through `/proc`, and ending our own ones by pid."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """What `/proc/<pid>/stat` says of a process."""

    pid: int
    name: str
    state: str
    parent: int

    @property
    def is_zombie(self) -> bool:
        """Whether it is dead and only not reaped yet."""
        return self.state in "ZX"


def read_process(pid: int) -> Process | None:
    """Return what is known about `pid`, or `None` when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return Process(pid, name, fields[0], int(fields[1]))


def all_processes() -> list[Process]:
    """Return every process of the machine that can be seen from here."""
    found = (read_process(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return [process for process in found if process is not None]


def descendants(pid: int, *, zombies: bool = False) -> list[Process]:
    """Return the children of `pid`, their children and so on; zombies only when asked for."""
    children: dict[int, list[Process]] = {}
    for process in all_processes():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    todo = [pid]
    while todo:
        for process in children.get(todo.pop(), ()):
            todo.append(process.pid)
            if zombies or not process.is_zombie:
                found.append(process)
    return found


def is_alive(pid: int) -> bool:
    """Whether `pid` is a process that is not a zombie."""
    process = read_process(pid)
    return process is not None and not process.is_zombie


def processes_with(variable: str, value: str) -> list[Process]:
    """Return the living processes whose environment holds `variable=value`.

    Finds those, too, that left their family: daemons, and orphans whom somebody else adopted.
    """
    wanted = f"{variable}={value}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            environment = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        process = read_process(int(entry)) if wanted in environment else None
        if process is not None and not process.is_zombie:
            found.append(process)
    return found


def kill_descendant(pid: int, *, ancestor: int | None = None, number: int = signal.SIGKILL) -> bool:
    """Send a signal to `pid` if it is a descendant of `ancestor` (default: of this process).

    The process is held by a pidfd while its family is checked, so that a pid which was given to a
    stranger in the meantime is never hit. Returns whether the signal was sent.
    """
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        family = ancestor if ancestor is not None else os.getpid()
        if not _descends(pid, family):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def _descends(pid: int, ancestor: int) -> bool:
    process = read_process(pid)
    while process is not None and process.parent > 0:
        if process.parent == ancestor:
            return True
        process = read_process(process.parent)
    return False
