"""Globals that are no module's, as those of an `exec`: known as long as a function of theirs lives.

A dict cannot be referred to weakly. Its functions can, and each of them leads to it.
"""

from __future__ import annotations

import functools
import weakref
from types import FunctionType

TYPE_CHECKING = False  # importing `typing` costs more than this module
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: By the ``id`` of globals, and by label: functions by their ``id``.
_labels: dict[int, str] = {}
_functions: dict[str, dict[int, weakref.ref[FunctionType]]] = {}
#: How many have gone.
deaths = 0


def label_of(fn: FunctionType, new: Callable[[], str]) -> str:
    """Return the label of a function's globals; `new` makes one."""
    key = id(fn.__globals__)
    label = _labels.get(key) or new()
    functions = _functions.get(label, {})
    if id(fn) not in functions:
        _hold(label, functions, fn)
    # The others may have gone at any moment before.
    _labels[key], _functions[label] = label, functions
    return label


def find(label: str) -> dict[str, Any] | None:
    """Return the globals with this label, None if they are gone."""
    for reference in list(_functions.get(label, {}).values()):
        if (fn := reference()) is not None:
            return fn.__globals__
    return None


def living() -> dict[str, dict[str, Any]]:
    """Return all globals by their labels."""
    found = {label: find(label) for label in list(_functions)}
    return {label: variables for label, variables in found.items() if variables is not None}


def _hold(label: str, functions: dict[int, weakref.ref[FunctionType]], fn: FunctionType) -> None:
    """Take in a function, and those beside it: they may outlive it."""
    variables = fn.__globals__
    for one in (fn, *list(variables.values())):
        if type(one) is FunctionType and one.__globals__ is variables:
            forget = functools.partial(_forget, label, id(variables), id(one))
            functions.setdefault(id(one), weakref.ref(one, forget))


def _forget(label: str, variables: int, fn: int, _dead: object) -> None:
    """Take in that a function is no more; its globals may still be there, but not their ``id`` for others."""
    global deaths
    functions = _functions.get(label, {})
    functions.pop(fn, None)
    if not functions:
        _functions.pop(label, None)
        _labels.pop(variables, None)
        deaths += 1
