"""bireme: parallel computing for Python on shared memory.

`Pool` is `multiprocessing.Pool` on bireme's kernel; `map`, `starmap` and `imap` run one
call on a shared default pool.
"""

from __future__ import annotations

from bireme import errors
from bireme._core import usable_cpus as cpu_count
from bireme.errors import (
    BiremeError,
    ForkedError,
    InitializerError,
    PicklingError,
    RemoteError,
    ResourceLimitError,
    TaskTimeoutError,
)
from bireme.pool import AsyncResult, Pool
from bireme.serialize import refresh

__version__ = "0.1.0"

_LAZY = {
    "CancelledError": "errors",
    "WaitTimeoutError": "errors",
    "WorkerDiedError": "errors",
    "imap": "_default",
    "map": "_default",
    "rng": "_seeds",
    "starmap": "_default",
}

__all__ = [
    "AsyncResult",
    "BiremeError",
    "CancelledError",
    "ForkedError",
    "InitializerError",
    "PicklingError",
    "Pool",
    "RemoteError",
    "ResourceLimitError",
    "TaskTimeoutError",
    "WaitTimeoutError",
    "WorkerDiedError",
    "cpu_count",
    "errors",
    "imap",
    "map",
    "refresh",
    "rng",
    "shared",
    "starmap",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme import shared
    from bireme._default import imap, map, starmap
    from bireme._seeds import rng
    from bireme.errors import CancelledError, WaitTimeoutError, WorkerDiedError


def __getattr__(name: str) -> Any:
    home = _LAZY.get(name)
    if home is None and name != "shared":
        raise AttributeError(f"module 'bireme' has no attribute {name!r}")
    import importlib

    if home is None:
        return importlib.import_module("bireme.shared")
    value = getattr(importlib.import_module(f"bireme.{home}"), name)
    globals()[name] = value
    return value
