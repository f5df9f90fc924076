"""Tasks that take from their worker what it needs, and tasks that leave something behind."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


class HangsAtHome:
    """An argument whose unpickling takes for ever."""

    def __reduce__(self) -> tuple[object, ...]:
        return time.sleep, (3600,)


def close_all() -> int:
    os.closerange(3, 4096)
    return os.getpid()


def close_all_and_write(folder: str) -> list[int]:
    """Have files of our own get the numbers of what was closed."""
    os.closerange(3, 4096)
    files = [open(Path(folder, str(n)), "wb", 0) for n in range(40)]  # noqa: SIM115  (they stay open)
    for file in files:
        file.write(b"ours")
    return [os.stat(file.fileno()).st_size for file in files]


def close_all_and_sleep() -> None:
    os.closerange(3, 4096)
    print("begun", os.getpid(), flush=True)
    time.sleep(3600)


def delete_streams() -> int:
    del sys.stdout
    del sys.stderr
    return 5


def fork_and_sleep() -> None:
    """Fork a child that ends at once, then go on for ever."""
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    print("begun", os.getpid(), flush=True)
    time.sleep(3600)


def leave_fork(how: str) -> int:
    """Fork a child that outlives the task, and the worker if that dies by SIGKILL."""
    child = os.fork()
    if child == 0:
        time.sleep(3600)
        os._exit(0)
    if how == "die":
        print("child", child, flush=True)
        time.sleep(0.05)
        os.kill(os.getpid(), 9)
    return child
