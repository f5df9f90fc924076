"""Hand an initializer what `multiprocessing` lets processes share at their birth only.

Its locks, queues, pipes and shared values refuse to be pickled except for a process that is being
spawned. `handing_over` takes the part of that process while a pool's initializer and its arguments
are pickled. Locks then go by name. Descriptors go by their position among those that every
worker of the pool, a later one too, is born with; `taking_over` makes them known in the worker.

Locks of a fork context have no name: only a fork can have them.
"""

from __future__ import annotations

import _pickle as pickle  # `pickle` itself imports much more
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_ONLY_FORKED = (
    "it was made in a fork context and has no name by which another process could open it; use "
    "start_method='fork', or make it in multiprocessing.get_context('spawn') or by a manager"
)
_given: Sequence[int] = ()


class Given:
    """A descriptor that the worker was born with, as `multiprocessing` unpickles it."""

    __slots__ = ("position",)

    def __init__(self, position: int) -> None:
        self.position = position

    def detach(self) -> int:
        """Give a descriptor for it that is the taker's own."""
        return os.dup(_given[self.position])


class handing_over:  # noqa: N801  (a context manager, used like a function)
    """Let `multiprocessing`'s objects be pickled inside, in this thread.

    Attributes
    ----------
    fds : list of int
        Descriptors that the pickles name by position.
    used : bool
        Whether there is something that must stay alive here until the last worker has it.
    only_forked : bool
        Whether something was refused that only a fork can have.
    """

    #: What `multiprocessing.reduction.DupFd` puts into the pickle.
    DupFd = Given

    def __init__(self) -> None:
        self.fds: list[int] = []
        self.used = self.only_forked = False
        # Who has not imported it has none of its objects.
        self._context: Any = sys.modules.get("multiprocessing.context")
        self._outer: Any = None

    def __enter__(self) -> handing_over:
        if self._context is not None:
            self._outer = self._context.get_spawning_popen()
            self._context.set_spawning_popen(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._context is not None:
            self._context.set_spawning_popen(self._outer)

    def duplicate_for_child(self, fd: int) -> int:
        """Have a descriptor travel; give its position."""
        self.used = True
        if fd not in self.fds:
            self.fds.append(fd)
        return self.fds.index(fd)

    def reducer(self, obj: Any, kind: type) -> Callable[[Any], Any] | None:
        """Give the function by which `multiprocessing` reduces objects of a type."""
        synchronize = sys.modules.get("multiprocessing.synchronize")
        if synchronize is not None and issubclass(kind, synchronize.SemLock):
            self.used = True
            if obj._semlock.name is None:
                self.only_forked = True
                raise pickle.PicklingError(_ONLY_FORKED)
            return None
        reduction = sys.modules.get("multiprocessing.reduction")
        return None if reduction is None else reduction.ForkingPickler._extra_reducers.get(kind)


def handing() -> handing_over | None:
    """Give the `handing_over` that this thread is inside of."""
    context = sys.modules.get("multiprocessing.context")
    get = getattr(context, "get_spawning_popen", None)  # it may be half imported
    popen = None if get is None else get()
    return popen if type(popen) is handing_over else None


def send_rest() -> None:
    """Let queues of `multiprocessing` send, before this process ends, what their threads still hold."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._run_finalizers()


class taking_over:  # noqa: N801
    """Let what was handed over be unpickled inside; `fds` are closed at the end."""

    def __init__(self, fds: list[int]) -> None:
        self._fds = fds

    def __enter__(self) -> None:
        global _given
        _given = self._fds

    def __exit__(self, *_: object) -> None:
        global _given
        _given = ()
        for fd in self._fds:
            os.close(fd)
