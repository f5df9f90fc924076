"""What `multiprocessing` knows of a process: that it is a worker, and the key that it shares.

A program may never load `multiprocessing`, so nothing here does: what its module is to know is set
when somebody imports it, or at once if somebody has.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

_MODULE = "multiprocessing.process"
# What the module is to know: "authkey", and in a worker "serial", "owner" and "owner_name".
_facts: dict[str, Any] = {}


def capture() -> dict[str, Any]:
    """Describe this process for its workers. The key is a secret: it travels in memory only."""
    if _MODULE in sys.modules:
        from multiprocessing import process  # waits for another thread that imports it just now

        current = process.current_process()
        return {"authkey": bytes(current.authkey), "owner_name": current.name}
    # It may be loaded later, for a manager perhaps: then it gets the key that the workers have.
    _facts.setdefault("authkey", os.urandom(32))
    _watch_imports()
    return {"authkey": _facts["authkey"], "owner_name": _facts.get("name", "MainProcess")}


def be_worker(serial: int, owner: int, captured: dict[str, Any], forked: bool) -> None:
    """Be worker number `serial` of process `owner`, which was `captured`."""
    _facts.update(captured, serial=serial, owner=owner, name=f"BiremePoolWorker-{serial}")
    process = sys.modules.get(_MODULE)
    if process is None:
        _watch_imports()
        return
    if not hasattr(process, "_children"):
        return  # half imported by a thread of the parent; nobody will finish it
    _set(process)
    util = sys.modules.get("multiprocessing.util")
    if forked and util is not None:
        # As in a `Process`: connections to managers, above all, are not shared with the parent.
        process._children = set()  # type: ignore[attr-defined]
        util._run_after_forkers()


def worker_name() -> str:
    """Give this worker's name, as `multiprocessing.current_process` does."""
    return str(_facts["name"])


def _set(process: ModuleType) -> None:
    current = process.current_process()
    current.authkey = _facts["authkey"]
    if "serial" not in _facts:
        return
    current.name, current._identity = _facts["name"], (_facts["serial"],)
    # `daemon` stays False, unlike in a worker of `multiprocessing`: it would forbid tasks to start processes.
    try:
        ended = os.pidfd_open(_facts["owner"])
    except (AttributeError, OSError):  # an old kernel or library, no descriptor left: do without
        return
    parent = process._ParentProcess(_facts["owner_name"], _facts["owner"], ended)
    process._parent_process = parent  # type: ignore[attr-defined]


class _Finder:
    """Finds what the others find; the module's loader is made to go on with `_set`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        for finder in list(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)  # older ones have none
            spec = find_spec and find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                _extend(spec.loader)
                return spec
        return None


_finder = _Finder()


def _watch_imports() -> None:
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def _extend(loader: Any) -> None:
    execute = loader.exec_module

    def execute_and_set(module: ModuleType) -> None:
        loader.exec_module = execute
        execute(module)
        _set(module)

    loader.exec_module = execute_and_set
