"""Fork and exec inside a task."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any, NoReturn

import bireme
from tests.integration.tasks.basic import square


def fork_and_reap(_: object) -> str:
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return "parent"


def fork_and_both_return(_: object) -> str:
    child = os.fork()
    if child == 0:
        return "child"
    os.waitpid(child, 0)
    return "parent"


def fork_and_child_raises(_: object) -> str:
    child = os.fork()
    if child == 0:
        raise ValueError("in the child")
    os.waitpid(child, 0)
    return "parent"


def fork_and_sum(array: Any, go: str, seen: str) -> None:
    """Leave a child behind that sums the array once `go` is there, and writes the sum to `seen`."""
    if os.fork() == 0:
        while not os.path.exists(go):
            time.sleep(0.01)
        with open(seen + ".part", "w") as file:
            file.write(str(float(array.sum())))
        os.rename(seen + ".part", seen)
        os._exit(0)


def use_subprocess(_: object) -> str:
    command = [sys.executable, "-S", "-c", "print('out')"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def use_multiprocessing(_: object) -> int:
    import multiprocessing

    queue = multiprocessing.get_context("fork").SimpleQueue()
    process = multiprocessing.get_context("fork").Process(target=queue.put, args=(9,), daemon=None)
    process.start()
    value: int = queue.get()
    process.join()
    queue.close()
    return value


def fork_for_ever() -> NoReturn:
    while True:
        fork_and_reap(None)


def use_forked_pool(count: int) -> list[int]:
    with bireme.Pool(2, start_method="fork") as pool:
        return pool.map(square, range(count), 3)


def become(program: str) -> NoReturn:
    os.execv(sys.executable, [sys.executable, "-S", "-c", program])
