"""Arrays in shared memory."""

from __future__ import annotations

import math
import sys
from operator import index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, SupportsIndex

    from numpy.typing import DTypeLike, NDArray

_WORTH_IT = 64 << 10  # smaller results are copied in no time


def empty(shape: SupportsIndex | tuple[int, ...], dtype: DTypeLike = float) -> NDArray[Any]:
    """Give an array, contents undefined, that a task can return without a copy.

    In a task the array lies where its result will be read: if the task returns it (or a part of
    it), and keeps no other reference, the caller gets that very memory. In all other ways it is
    an ordinary array; outside of a task it is one altogether.

    Parameters
    ----------
    shape : int or tuple of int
        As for `numpy.empty`.
    dtype : data-type, optional
        As for `numpy.empty`; without Python objects.

    Returns
    -------
    numpy.ndarray
        Writable and C-contiguous.

    Raises
    ------
    ValueError
        If `dtype` holds Python objects: they cannot be shared.
    MemoryError
        If the pool's memory budget, or the system's memory, has no room for it.

    Examples
    --------
    >>> import bireme
    >>> bireme.shared.empty((2, 3), "u1").shape
    (2, 3)
    """
    import numpy as np

    kind = np.dtype(dtype)
    if kind.hasobject:
        raise ValueError(f"dtype must hold no Python objects to be shared, got {kind}")
    dimensions = (index(shape),) if hasattr(shape, "__index__") else tuple(shape)
    size = math.prod(dimensions) * kind.itemsize
    core = _worker()
    if core is None or size < _WORTH_IT:
        return np.empty(dimensions, kind)
    return np.ndarray(dimensions, kind, core.shared(size))


def _worker() -> Any:
    worker = sys.modules.get("bireme.worker")
    hooks = None if worker is None else worker._current
    return None if hooks is None else hooks.core
