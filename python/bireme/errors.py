"""Every exception of bireme.

Each class also derives from the standard one that existing code catches. Classes
whose standard base lives in `concurrent.futures` or `multiprocessing` are made at
first use, because importing those costs more than importing bireme; they are the
same object ever after.
"""

from __future__ import annotations

import _pickle as pickle  # `pickle` itself imports much more

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "BiremeError",
    "CancelledError",
    "ForkedError",
    "InitializerError",
    "PicklingError",
    "RemoteError",
    "RemoteTraceback",
    "ResourceLimitError",
    "TaskTimeoutError",
    "WaitTimeoutError",
    "WorkerDiedError",
]


class BiremeError(Exception):
    """Base of all errors that bireme itself raises."""


class ForkedError(BiremeError, RuntimeError):
    """A pool was used in a forked child of the process that made it."""


class PicklingError(BiremeError, pickle.PicklingError):
    """Something cannot travel to a worker or back; the text says what and where it hides."""


class ResourceLimitError(BiremeError, OSError):
    """The system or bireme's own budget has no more to give; the text names the limit."""


class InitializerError(BiremeError, RuntimeError):
    """The initializer of a pool raised or ended its process; its error is the ``__cause__``.

    Also raised when no worker gets so far: a module in ``preload`` cannot be imported or starts
    threads, or the process that workers are forked from ends.
    """


class TaskTimeoutError(BiremeError, TimeoutError):
    """A task ran longer than its ``task_timeout`` and was stopped."""


class RemoteError(BiremeError, RuntimeError):
    """An exception, result or argument could not be rebuilt on this side.

    Attributes
    ----------
    type_name : str
        Qualified name of the original exception's class.
    text : str
        What the original exception said.
    """

    def __init__(self, message: str, type_name: str = "", text: str = "") -> None:
        super().__init__(message, type_name, text)
        self.type_name = type_name
        self.text = text

    def __str__(self) -> str:
        """Give the message alone."""
        return str(self.args[0])


def _remote_traceback() -> type:
    from multiprocessing import pool

    return pool.RemoteTraceback  # type: ignore[attr-defined,no-any-return]


def _worker_died() -> type:
    from concurrent.futures.process import BrokenProcessPool

    class WorkerDiedError(BiremeError, BrokenProcessPool):
        """The worker that ran a task died; this is its death certificate.

        Attributes
        ----------
        task : str or None
            Name of the function.
        item : int or None
            Index of the item, counted over the whole call; `None` for a single call.
        lost : bool
            `False` for the item that the worker died in. `True` for one that had run
            or was about to, whose result went with the worker; it may not run twice
            without ``retries``.
        died_in : int or None
            Index of the item that the worker died in, if that is known.
        worker, pid : int
            Number and process id of the worker.
        exitcode, signal : int or None
            How it ended.
        peak_memory_bytes, memory_limit_bytes : int or None
            Its peak resident memory, and the limit of its cgroup.
        oom_killed : bool
            Whether the kernel's OOM killer struck in its cgroup just then.
        stack : str
            The Python stack at a fatal signal.
        last_output : str
            The last lines it printed.
        """

        def __init__(self, message: str = "", **fields: Any) -> None:
            super().__init__(message)
            defaults = dict.fromkeys(
                (
                    "task",
                    "item",
                    "died_in",
                    "worker",
                    "pid",
                    "exitcode",
                    "signal",
                    "peak_memory_bytes",
                )
            )
            more = {
                "memory_limit_bytes": None,
                "lost": False,
                "oom_killed": False,
                "stack": "",
                "last_output": "",
            }
            self.__dict__.update({**defaults, **more, **fields})

    return WorkerDiedError


def _wait_timeout() -> type:
    from multiprocessing import TimeoutError as PoolTimeoutError

    class WaitTimeoutError(BiremeError, PoolTimeoutError, TimeoutError):
        """A wait with a ``timeout`` is over; the task goes on."""

    return WaitTimeoutError


def _cancelled() -> type:
    from concurrent.futures import CancelledError as FutureCancelledError

    class CancelledError(BiremeError, FutureCancelledError):
        """The task was cancelled."""

    return CancelledError


_LAZY: dict[str, Callable[[], type]] = {
    "CancelledError": _cancelled,
    "RemoteTraceback": _remote_traceback,
    "WaitTimeoutError": _wait_timeout,
    "WorkerDiedError": _worker_died,
}

if TYPE_CHECKING:
    CancelledError: type[Exception]
    RemoteTraceback: type[Exception]
    WaitTimeoutError: type[Exception]
    WorkerDiedError: type[Any]


def __getattr__(name: str) -> Any:
    make = _LAZY.get(name)
    if make is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    cls = globals().get(name)
    if cls is None:
        cls = make()
        if issubclass(cls, BiremeError):
            cls.__module__, cls.__qualname__ = __name__, name
        cls = globals().setdefault(name, cls)
    return cls
