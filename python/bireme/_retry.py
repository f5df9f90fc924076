"""Trying an item again after an exception that its caller expects."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Retrying:
    """A function that is called again when it raises one of some exceptions.

    The attempts that deaths of workers cost count as well: the core tells how many
    there were.

    Parameters
    ----------
    func : callable
        The function.
    retry_on : type or tuple of types
        Exceptions to try again after.
    retries : int
        Attempts after the first.
    """

    def __init__(self, func: Callable[..., Any], retry_on: Any, retries: int) -> None:
        self.func = func
        self.retry_on = retry_on if isinstance(retry_on, tuple) else (retry_on,)
        self.retries = retries
        for kind in self.retry_on:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"retry_on must name exception classes, got {kind!r}")

    def __call__(self, *args: Any, **kwds: Any) -> Any:
        """Call the function until it returns, raises something else, or no attempt is left."""
        from bireme import _core

        task = _core.current_task()
        left = self.retries - (0 if task is None else task[2])
        while True:
            try:
                return self.func(*args, **kwds)
            except self.retry_on:
                if left <= 0:
                    raise
                left -= 1
                seeds = sys.modules.get("bireme._seeds")
                if seeds is not None:
                    seeds.restart_item()  # the same streams again
