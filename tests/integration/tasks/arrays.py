"""Arrays, kept and changed."""

from __future__ import annotations

from typing import Any

kept: Any = None


def total(array: Any) -> float:
    return float(array.sum())


def write_and_sum(array: Any) -> float:
    """Overwrite the whole argument with 2 and sum it."""
    assert array.flags.writeable
    array[...] = 2
    return float(array.sum())


def plus_one(array: Any) -> Any:
    array += 1
    return array


def full(size: int, value: float) -> Any:
    import numpy

    return numpy.full(size, value, dtype=float)


def keep(array: Any) -> None:
    global kept
    kept = array


def keep_first(array: Any) -> float:
    """Keep the first array that comes; give the sum of what is kept."""
    global kept
    if kept is None:
        kept = array
    return total(kept)


def last_of(array: Any) -> float:
    return float(array[-1])


def get_kept() -> Any:
    return kept


def keep_and_return(size: int) -> Any:
    """Return an array to which this worker keeps a reference."""
    global kept
    import numpy

    kept = numpy.arange(size, dtype=float)
    return kept


def kept_is_intact() -> bool:
    import numpy

    return kept is None or bool(numpy.array_equal(kept, numpy.arange(len(kept), dtype=float)))


def return_view_of_kept(size: int) -> Any:
    return keep_and_return(size)[::2]


def overwrite_kept() -> None:
    kept[...] = -5
