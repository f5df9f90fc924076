"""Ended processes that a worker has adopted: nobody waits for them, so it does once they are many.

Whatever a task starts goes with its worker, which therefore adopts orphans. The system does not tell them from the
children that the worker's own code has started, and how those ended must stay to be asked for. But to
wait for a process takes its number: one that no object of this interpreter holds is nobody's.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys

from bireme import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def reap() -> None:
    """Wait for the ended children whose number nobody knows. Between two tasks, by their thread.

    Variables of other threads are seen by no collector, so while there are any nothing is done.
    """
    if len(sys._current_frames()) > 1:
        return
    ended = frozenset(_core.ended_children())
    for pid in ended - _known(ended):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _known(ours: frozenset[int]) -> set[int]:
    """Return every number that an object holds, `ours` aside. Not all are those of processes."""
    gc.unfreeze()  # what the template, or the caller, had loaded may hold some by now
    values = gc.get_referents(*(holder for holder in gc.get_objects() if holder is not ours))
    nested = _untracked(values)
    while nested:
        more = gc.get_referents(*nested)
        values += more
        nested = _untracked(more)
    return {value for value in values if type(value) is int}


def _untracked(values: Iterable[object]) -> list[object]:
    """Return the containers among `values` that the collector leaves out: they hold none that matters to it."""
    return [value for value in values if type(value) in (dict, tuple) and not gc.is_tracked(value)]
