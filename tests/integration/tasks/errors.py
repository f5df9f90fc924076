"""What does not pickle, or does not unpickle."""

from __future__ import annotations

import os
import threading
from typing import Any, NoReturn


class TwoArgumentsError(Exception):
    """Cannot be rebuilt from `args`, as careless exceptions cannot."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")
        self.held = first


class MadeOfTwoError(Exception):
    """Its `__new__` needs two arguments, of which it keeps one."""

    def __new__(cls, this: str, that: str) -> MadeOfTwoError:
        error = super().__new__(cls, this)
        error.that = that
        return error

    def __init__(self, this: str, that: str) -> None:
        super().__init__(this)


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class FailsToLoad:
    """Pickles well; raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return _refuse_to_load, ()


class FailsToLoadError(Exception):
    def __reduce__(self) -> Any:
        return _refuse_to_load, ()


def _refuse_to_load() -> NoReturn:
    raise RuntimeError("this cannot be rebuilt")


class DiesOnLoad:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> Any:
        return os._exit, (7,)


class LoadsOnlyIn:
    """Can be unpickled in the process that made it, and nowhere else."""

    def __init__(self) -> None:
        self.home = os.getpid()

    def __getstate__(self) -> int:
        return self.home

    def __setstate__(self, home: int) -> None:
        if os.getpid() != home:
            raise RuntimeError("loads only at home")
        self.home = home


def raise_group() -> NoReturn:
    inner = ExceptionGroup("inner", [TwoArgumentsError("this", "that"), ValueError(3)])
    raise ExceptionGroup("outer", [KeyError("k"), inner])


def raise_two_arguments(_: object = None) -> NoReturn:
    raise TwoArgumentsError("this", "that")


def raise_made_of_two() -> NoReturn:
    raise MadeOfTwoError("this", "that")


def raise_unpicklable(_: object = None) -> NoReturn:
    raise UnpicklableError


def raise_fails_to_load(_: object = None) -> NoReturn:
    raise FailsToLoadError("was raised")


def raise_base(name: str) -> NoReturn:
    raise {"KeyboardInterrupt": KeyboardInterrupt, "GeneratorExit": GeneratorExit}[name](
        "raised in a task"
    )


def raise_chained(_: object = None) -> NoReturn:
    try:
        {}["missing"]
    except KeyError as error:
        raise RuntimeError("outer") from error


def return_lambda(_: object = None) -> Any:
    return lambda: 42


def return_lock(_: object = None) -> Any:
    return {"deep": [threading.Lock()]}


def return_fails_to_load(_: object = None) -> FailsToLoad:
    return FailsToLoad()


def return_generator(_: object = None) -> Any:
    return (x for x in range(3))


def fails_to_load_if_two(x: int) -> Any:
    return FailsToLoad() if x == 2 else x


def return_deep(depth: int) -> Any:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def kind(value: object) -> str:
    return type(value).__name__
