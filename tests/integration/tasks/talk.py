"""Output, log records, random numbers."""

from __future__ import annotations

import ctypes
import logging
import os
import random
import subprocess
import sys
import threading
from typing import NoReturn

from tests.integration.tasks.basic import meet, wait_for_file
from tests.integration.tasks.ends import die_first_time


def say(text: str, stream: str = "stdout") -> None:
    print(text, file=getattr(sys, stream))


def say_in_c(text: str) -> None:
    libc = ctypes.CDLL(None)
    libc.puts(text.encode())
    libc.fflush(None)


def say_in_child(text: str) -> None:
    subprocess.run(["echo", text], check=True)


def say_without_end(text: str) -> None:
    sys.stdout.write(text)


def say_and_fail(text: str) -> NoReturn:
    print(text)
    raise ValueError("after printing")


def say_and_wait(text: str, gate: str) -> None:
    print(text)
    wait_for_file(gate)


def say_many(count: int) -> None:
    for i in range(count):
        print(f"{i:08d}" + "z" * 192)


def write_bytes(data: bytes) -> None:
    os.write(1, data)


def capture_own_output(text: str) -> str:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as stream:
        print(text)
    return stream.getvalue()


def read_input() -> str:
    try:
        return sys.stdin.read() if sys.stdin else ""
    except OSError as error:
        return str(error)


log_of_tasks = logging.getLogger("tests.tasks")


def log(level: str, message: str, *args: object) -> None:
    getattr(log_of_tasks, level)(message, *args)


def log_warning(x: int) -> None:
    log_of_tasks.warning("%d", x)


def log_exception() -> None:
    try:
        1 / 0
    except ZeroDivisionError:
        log_of_tasks.exception("it went wrong")


def log_lock() -> None:
    log_of_tasks.warning("holds %s", threading.Lock())


def draw(x: object) -> tuple[float, float]:
    """Draw from both global generators."""
    import numpy

    return random.random(), float(numpy.random.random())


def draw_several(x: object, count: int) -> list[tuple[float, float]]:
    return [draw(x) for _ in range(count)]


def draw_from_rng(x: object) -> float:
    import bireme

    return float(bireme.rng().random())


def draw_after_death(folder: str, x: int) -> tuple[float, float]:
    """Draw, and die with the numbers at the first try."""
    numbers = draw(x)
    die_first_time(folder, x)
    return numbers


def meet_and_draw(folder: str, x: int) -> tuple[int, tuple[float, float]]:
    meet(folder, x, party=2)
    return os.getpid(), draw(x)
