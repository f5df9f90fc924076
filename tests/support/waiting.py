"""Waiting with a deadline: the only way in which a test deals with time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: Seconds after which "it hangs" is the only explanation left on a busy machine.
GENEROUS = 30.0


def poll(condition: Callable[[], T], *, timeout: float = GENEROUS, interval: float = 0.01) -> T:
    """Call `condition` until it gives something true, or until `timeout` seconds are over.

    Returns
    -------
    object
        The last value of `condition`, true or not: `assert poll(...)` reads well, and the value is
        there for the message.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value or time.monotonic() >= deadline:
            return value
        time.sleep(interval)
