"""Values, waiting for each other, setting workers up."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NoReturn

calls = 0
setting: Any = None


def identity(value: Any) -> Any:
    return value


def square(x: int) -> int:
    return x * x


def add(x: int, y: int = 0, *, z: int = 0) -> int:
    return x + y + z


def pid(_: object = None) -> int:
    return os.getpid()


def pid_and_call(x: object) -> tuple[object, int, int]:
    """Return `x`, the worker, and how many calls of this function it has seen."""
    global calls
    calls += 1
    return x, os.getpid(), calls


def slow(x: Any, seconds: float = 0.05) -> Any:
    time.sleep(seconds)
    return x


def pid_after_file(path: str) -> int:
    wait_for_file(path)
    return os.getpid()


def fail(x: object) -> NoReturn:
    raise ValueError("failed on", x)


def fail_on(x: int, bad: int) -> int:
    if x == bad:
        raise ValueError("failed on", x)
    return x


def stop_on_odd(folder: str, x: object) -> object:
    """Raise what ends a loop over an iterator; remember that it ran."""
    Path(folder, str(x)).touch()
    if int(str(x)) % 2:
        raise StopIteration
    return x


def fail_on_odd(x: int) -> int:
    if x % 2:
        raise ValueError("odd", x)
    return x


def record(folder: str, name: object, text: str = "") -> object:
    """Leave a file behind that says: this ran. One line a run, so runs can be counted."""
    with open(Path(folder) / str(name), "a") as file:
        file.write(f"{text or os.getpid()}\n")
    return name


def record_then_fail_on(folder: str, x: int, bad: int) -> int:
    time.sleep(0.01)
    record(folder, x)
    return fail_on(x, bad)


def runs(folder: str | Path, name: object) -> int:
    """Return how often `record(folder, name)` ran."""
    path = Path(folder) / str(name)
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for_file(path: str, result: Any = None, seconds: float = 60.0) -> Any:
    """Return `result` once `path` exists."""
    deadline = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.005)
    return result


def wait_for_pair(pair: tuple[str, Any]) -> Any:
    return wait_for_file(*pair)


def wait_for_pair_of(path: str, value: Any) -> Any:
    return wait_for_file(path, value)


def meet_at_chunk_starts(folder: str, chunksize: int, party: int, x: int) -> tuple[int, int]:
    """Return `x` and the worker; the first item of each chunk waits for those of the others."""
    if x % chunksize == 0:
        return meet(folder, x, party)
    return x, os.getpid()


def fail_last_at_lowest(folder: str, x: int) -> int:
    """Fail on 5, 6 and 20, on 5 so late that the others have failed before."""
    record(folder, x)
    if x == 5:
        time.sleep(0.3)
    return fail_on(x, bad=x if x in (5, 6, 20) else -1)


def workers_of(pool: Any, seconds: float = 30.0) -> list[int]:
    """Return the pids of a pool's workers, once all of them are there."""
    deadline = time.monotonic() + seconds
    while len(pids := pool.worker_pids()) != pool.processes:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{pids} of {pool.processes} workers")
        time.sleep(0.005)
    return list(pids)


def meet(folder: str, x: int, party: int, seconds: float = 60.0) -> tuple[int, int]:
    """Return once `party` different items run at the same time; gives `x` and the worker."""
    record(folder, x)
    deadline = time.monotonic() + seconds
    while len(os.listdir(folder)) < party:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {os.listdir(folder)} came")
        time.sleep(0.005)
    return x, os.getpid()


def set_setting(value: Any) -> None:
    global setting
    setting = value


def get_setting(_: object = None) -> Any:
    return setting


def init_raises(message: str) -> NoReturn:
    raise RuntimeError(message)


def init_exits(code: int) -> NoReturn:
    os._exit(code)


def record_and_raise(folder: str) -> NoReturn:
    record(folder, "init")
    raise RuntimeError("never again")


def wait_and_raise(seconds: float) -> NoReturn:
    time.sleep(seconds)
    raise RuntimeError("too late")


def init_once(folder: str) -> None:
    """Succeed in the first worker, and in no other."""
    record(folder, "init")
    if runs(folder, "init") > 1:
        raise RuntimeError("only once")


def init_counts(folder: str) -> None:
    record(folder, os.getpid())


class Account:
    def __init__(self, balance: int) -> None:
        self.balance = balance

    def plus(self, amount: int) -> int:
        return self.balance + amount

    @classmethod
    def opened_with(cls, balance: int) -> Account:
        return cls(balance)

    @staticmethod
    def twice(amount: int) -> int:
        return 2 * amount

    def __call__(self, amount: int) -> int:
        return self.balance - amount


def append_line(pair: tuple[str, int]) -> None:
    """Add a line to a file that several processes write to."""
    path, number = pair
    with open(path, "a") as file:
        file.write(f"{number}\n")
