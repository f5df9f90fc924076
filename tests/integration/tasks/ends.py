"""Tasks that end their worker, or nearly."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from tests.integration.tasks.basic import record, runs


def die(how: str) -> None:
    """End this worker: by a signal's name, or `exit3`, `sysexit5`, `abort`, `segv`, `recursion`."""
    print(f"last words before {how}", flush=True)
    if how == "exit3":
        os._exit(3)
    elif how == "sysexit5":
        sys.exit(5)
    elif how == "abort":
        os.abort()
    elif how == "segv":
        ctypes.string_at(0)
    elif how == "recursion":
        overflow_c_stack()
    else:
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(60)


def die_on(x: int, bad: int, how: str = "SIGKILL") -> int:
    if x == bad:
        die(how)
    return x


def die_first_time(folder: str, x: int, how: str = "SIGKILL") -> int:
    """End the worker at the first try of `x`, return it at the next."""
    record(folder, x)
    if runs(folder, x) == 1:
        die(how)
    return x


def die_on_every_fifth(x: int) -> int:
    if x % 5 == 0:
        die("SIGKILL")
    return x


def record_and_die_on(folder: str, x: int, bad: int) -> int:
    record(folder, x)
    return die_on(x, bad)


def allocate_and_die(size: int) -> None:
    allocate(size)
    die("SIGKILL")


def record_and_die(folder: str, x: int) -> None:
    record(folder, x)
    die("SIGKILL")


def fail_first_times(folder: str, x: int, times: int) -> int:
    record(folder, x)
    if runs(folder, x) <= times:
        raise ConnectionError("try again", x)
    return x


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1)


def overflow_c_stack() -> None:
    """Recurse through C until the stack is over: a segmentation fault, not a RecursionError."""
    sys.setrecursionlimit(10**9)
    callback_type = ctypes.CFUNCTYPE(None)

    @callback_type
    def again() -> None:
        again()

    again()


def allocate(size: int) -> int:
    """Touch `size` bytes."""
    block = bytearray(size)
    block[::4096] = b"x" * len(block[::4096])
    return len(block)


def allocate_under_limit(size: int, spare: int) -> int:
    """Allocate `size` bytes where `spare` bytes of address space are left; lifts the limit again."""
    import resource

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, hard))
    try:
        return allocate(size)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def stop_others_and_die(pid: int) -> None:
    """Stop process `pid`, then end this worker."""
    os.kill(pid, signal.SIGSTOP)
    die("SIGKILL")


def stop_self() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)
