"""Tasks that make their results with `bireme.shared`."""

from __future__ import annotations

from typing import Any

_kept: Any = None


def make_shared(how: str, size: int) -> Any:
    """Return numbers from 0 on in a shared array, or do something else with it."""
    global _kept
    import numpy as np

    import bireme

    array = bireme.shared.empty(size, "i8")
    array[:] = np.arange(size)
    if how == "dropped":
        return None
    if how == "kept":
        _kept = array
    elif how == "kept_view":
        _kept = array[1:]
    elif how == "kept_memoryview":
        _kept = memoryview(array)
    return {"part": array[size // 2 :], "reshaped": array.reshape(2, -1)}.get(how, array)


def make_two_shared(size: int) -> Any:
    """Return two shared arrays, of ones and of twos."""
    import bireme

    arrays = bireme.shared.empty(size), bireme.shared.empty(size)
    for value, array in enumerate(arrays, 1):
        array[:] = value
    return arrays


def make_shared_sum(size: int) -> int:
    """Make a shared array of ones and return its sum only."""
    return int(make_two_shared(size)[0].sum())


def spoil_kept() -> None:
    """Change the array that an earlier task kept."""
    import numpy as np

    np.asarray(_kept)[...] = -1


def read_kept() -> int:
    """Return an element of the array that an earlier task kept."""
    import numpy as np

    return int(np.asarray(_kept)[5])


def mapping_of(array: Any) -> tuple[str, int]:
    """Return which file an array's memory belongs to, and where in it the array lies."""
    address = array.ctypes.data
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, _, offset, _, inode, *_ = line.split()
            low, high = (int(end, 16) for end in span.split("-"))
            if low <= address < high:
                return inode, int(offset, 16) + address - low
    raise AssertionError("no mapping holds the array")


def where_shared_lies(size: int) -> tuple[str, int]:
    """Return `mapping_of` a shared array that is dropped again."""
    import bireme

    return mapping_of(bireme.shared.empty(size, "i8"))
