"""What `multiprocessing` says of the process that runs a task."""

from __future__ import annotations

from typing import Any


def multiprocessing_state() -> dict[str, Any]:
    import multiprocessing

    current, parent = multiprocessing.current_process(), multiprocessing.parent_process()
    assert parent is not None
    return {
        "identity": current._identity,
        "name": current.name,
        "daemon": current.daemon,
        "parent": (parent.name, parent.pid),
        "parent_lives": parent.is_alive(),
        "children": len(multiprocessing.active_children()),
    }


def authkey() -> bytes:
    import multiprocessing

    return bytes(multiprocessing.current_process().authkey)
