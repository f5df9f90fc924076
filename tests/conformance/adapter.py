"""`bireme.Pool` with the few private names of `multiprocessing.Pool` that CPython's tests look at.

The suite counts `pool._pool` and reads the pids of its elements; here both come from the public
`worker_pids()`. Nothing of the pool's work is replaced.
"""

from __future__ import annotations

import os
import time
from typing import Any

import bireme

START_METHOD = "BIREME_CONFORMANCE_START_METHOD"


class Worker:
    """What the suite asks of an element of `pool._pool`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def is_alive(self) -> bool:
        return os.path.exists(f"/proc/{self.pid}")


class Pool(bireme.Pool):
    """The pool under test."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, start_method=os.environ[START_METHOD], **options)

    @property
    def _pool(self) -> list[Worker]:
        deadline = time.monotonic() + 30.0
        while len(pids := self.worker_pids()) < self.processes and time.monotonic() < deadline:
            time.sleep(0.005)  # they are born while the caller goes on
        return [Worker(pid) for pid in pids]

    def _repopulate_pool(self) -> None:
        """Dead workers are replaced without being told."""


class Face:
    """The module `multiprocessing`, with our `Pool` in it."""

    Pool = Pool

    def __init__(self, module: Any) -> None:
        self.__dict__["_module"] = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
