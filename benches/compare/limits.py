"""What this machine can do at best, so that figures beside it can be judged.

Measured from Python through NumPy, ctypes and ``os``; the round trips therefore include about a
microsecond of interpreter on each side. Rates are bytes per second, everything else seconds.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import subprocess
import sys
from contextlib import suppress
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 2**28  # 256 MiB
SYS_FUTEX, FUTEX_WAIT, FUTEX_WAKE = (202 if os.uname().machine == "x86_64" else 98), 0, 1


def measure() -> dict[str, str]:
    """Return every limit as (what, figure), ready for the table."""
    small = {  # before the arrays below make this process slow to fork
        "futex round trip, two processes": f"{futex_round_trip() * 1e6:.1f} µs",
        "pipe round trip, two processes": f"{pipe_round_trip() * 1e6:.1f} µs",
        "fork, exit, wait": f"{per_call(fork_once, 50) * 1e3:.2f} ms",
        "`python -c pass`": f"{per_call(bare_interpreter, 10) * 1e3:.0f} ms",
        "`pickle.dumps((3,))`; `loads`": "; ".join(f"{s * 1e6:.2f} µs" for s in pickling()),
    }
    source, warm = np.ones(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    fresh_s, again_s = memfd_copies(source)
    return {
        "memcpy of 256 MB, warm": rate(lambda: np.copyto(warm, source)),
        "memcpy into fresh anonymous pages": rate(lambda: copy_to(mmap.mmap(-1, SIZE), source)),
        "copy into a fresh memfd": f"{SIZE / fresh_s / 1e9:.2f} GB/s",
        "copy into a mapped, warm memfd": f"{SIZE / again_s / 1e9:.2f} GB/s",
        "`np.sum` over 256 MB": rate(lambda: warm.view(np.float64).sum()),
        **small,
    }


def per_call(call: Callable[[], object], count: int) -> float:
    """Return the median seconds of `count` calls."""
    samples = []
    for _ in range(count):
        start = perf_counter()
        call()
        samples.append(perf_counter() - start)
    return median(samples)


def rate(copy: Callable[[], object]) -> str:
    """Return the rate at which `copy` goes over `SIZE` bytes."""
    copy()
    return f"{SIZE / per_call(copy, 5) / 1e9:.2f} GB/s"


def copy_to(target: mmap.mmap, source: np.ndarray) -> None:
    """Copy `source` into a mapping."""
    np.copyto(np.frombuffer(target, np.uint8), source)


def memfd_copies(source: np.ndarray) -> tuple[float, float]:
    """Return the seconds to copy 256 MB into a new memfd, and into the same one again."""
    descriptor = os.memfd_create("bireme-limits")
    try:
        os.ftruncate(descriptor, SIZE)
        target = mmap.mmap(descriptor, SIZE)
        return per_call(lambda: copy_to(target, source), 1), per_call(
            lambda: copy_to(target, source), 5
        )
    finally:
        os.close(descriptor)


def echoing_child(echo: Callable[[], None], round_trip: Callable[[], None], rounds: int) -> float:
    """Fork a child that runs `echo` for ever; return the median seconds of `round_trip` against it."""
    child = os.fork()
    if child == 0:
        while True:
            echo()
    try:
        return per_call(round_trip, rounds)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, 9)
        os.waitpid(child, 0)


def pipe_round_trip() -> float:
    """Return the seconds for one byte to a process and back, through two pipes."""
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()

    def ask() -> None:
        os.write(our_out, b"1")
        os.read(our_in, 1)

    def answer() -> None:
        os.write(their_out, os.read(their_in, 1))

    try:
        return echoing_child(answer, ask, 3_000)
    finally:
        for descriptor in (their_in, our_out, our_in, their_out):
            os.close(descriptor)


def futex_round_trip() -> float:
    """Return the seconds to wake a sleeping process and be woken by it, on two futex words."""
    words = (ctypes.c_uint32 * 2).from_buffer(mmap.mmap(-1, mmap.PAGESIZE))
    syscall = ctypes.CDLL(None).syscall
    addresses = [ctypes.c_void_p(ctypes.addressof(words) + 4 * index) for index in range(2)]

    def post(index: int) -> None:
        words[index] = 1
        syscall(SYS_FUTEX, addresses[index], FUTEX_WAKE, 1, None, None, 0)

    def wait(index: int) -> None:
        while not words[index]:  # the kernel compares again, so no wake-up is lost
            syscall(SYS_FUTEX, addresses[index], FUTEX_WAIT, 0, None, None, 0)
        words[index] = 0

    def ask() -> None:
        post(0)
        wait(1)

    def answer() -> None:
        wait(0)
        post(1)

    return echoing_child(answer, ask, 3_000)


def pickling() -> tuple[float, float]:
    """Return the seconds of pickling a tuple of one int, and of reading it back."""
    value, data = (3,), pickle.dumps((3,), protocol=5)
    count = 20_000
    dumps = per_call(lambda: [pickle.dumps(value, protocol=5) for _ in range(count)], 3) / count
    loads = per_call(lambda: [pickle.loads(data) for _ in range(count)], 3) / count
    return dumps, loads


def fork_once() -> None:
    """Fork a child that exits at once, and wait for it."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def bare_interpreter() -> None:
    """Run an interpreter that does nothing."""
    subprocess.run([sys.executable, "-c", "pass"], check=True)


if __name__ == "__main__":
    import json

    print(json.dumps(measure()))
