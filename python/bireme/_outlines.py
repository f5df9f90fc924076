"""Functions of a class that are there, empty, before anything is read that may refer to them."""

from __future__ import annotations

import types

TYPE_CHECKING = False  # importing `typing` costs more than the rest of this module
if TYPE_CHECKING:
    from typing import Any

#: The flags of generators, coroutines and asynchronous generators: a function stays what it is.
_KINDS = 0x20 | 0x80 | 0x200


def outlined_functions(
    made: list[tuple[Any, ...]], known: dict[int, types.FunctionType]
) -> dict[int, types.FunctionType]:
    """Make functions that are still to be filled, or take those that are known.

    Each has a number, names in its class, code, globals, and the numbers of its cells: functions of
    one class share them.
    """
    functions: dict[int, types.FunctionType] = {}
    cells: dict[int, types.CellType] = {}
    for serial, _, code, variables, numbers in made:
        fn = known.get(serial)
        if fn is None or not _renewed(fn, code, variables, numbers, cells):
            closure = tuple(cells.setdefault(number, types.CellType()) for number in numbers)
            fn = types.FunctionType(code, variables, None, None, closure)
        functions[serial] = fn
    return functions


def _renewed(
    fn: types.FunctionType,
    code: types.CodeType,
    variables: dict[str, Any],
    numbers: list[int],
    cells: dict[int, types.CellType],
) -> bool:
    """Give a function that is here its new code; say whether that can be done."""
    closure = fn.__closure__ or ()
    if fn.__globals__ is not variables or len(closure) != len(numbers):
        return False
    if (fn.__code__.co_flags ^ code.co_flags) & _KINDS:
        return False
    if any(cells.setdefault(n, cell) is not cell for n, cell in zip(numbers, closure, strict=True)):
        return False
    fn.__code__ = code
    return True
