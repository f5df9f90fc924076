"""Loaded modules that may be edited while they are in use, and whether they were."""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# Nobody edits the standard library, installed packages, or bireme while a program uses them.
_FIXED = os.path.dirname(os.__file__) + os.sep, os.path.dirname(__file__) + os.sep

_Stamp = tuple[int, int, int]


def attributes(module: Any) -> dict[str, Any]:
    """Give a module's attributes, past a lazy one's own `__getattribute__`, which would import it."""
    try:
        return object.__getattribute__(module, "__dict__")  # type: ignore[no-any-return]
    except AttributeError:  # anything may stand in `sys.modules`
        return {}


class Sources:
    """The sources of the caller's modules, as workers that are born now will find them.

    Each worker imports a module when it first needs it. So that all of them run the same code,
    every module is remembered as it was before the first task that may have used it.
    """

    def __init__(self) -> None:
        self._born_ns = time.time_ns()
        # Of each module: its spec, which every import and reload makes anew; its file; its stamp.
        self._seen: dict[str, tuple[object, str, _Stamp]] = {}
        self._loaded: tuple[int, str] | None = None  # what `_seen` was made from
        self._see_new()

    def changed(self) -> bool:
        """Whether a worker might not run what a new one would, or what the caller runs."""
        return self._see_new() or any(
            attributes(sys.modules.get(name)).get("__spec__") is not spec or _stamp(path) != stamp
            for name, (spec, path, stamp) in self._seen.items()
        )

    def _see_new(self) -> bool:
        """Remember modules that were loaded since; whether one was written after workers were born."""
        # What is imported, or reloaded, becomes the last.
        loaded = len(sys.modules), next(reversed(sys.modules), "")
        if loaded == self._loaded:
            return False
        first, self._loaded = self._loaded is None, loaded
        late = False
        for name, spec, path in _editable():
            if name not in self._seen:
                stamp = _stamp(path)
                self._seen[name] = spec, path, stamp
                # A worker may have imported it before it was written, or in between.
                late = late or (not first and stamp[0] >= self._born_ns)
        return late


def _editable() -> Iterator[tuple[str, object, str]]:
    for name, module in list(sys.modules.items()):
        found = attributes(module)
        path = found.get("__file__")
        if isinstance(path, str) and name != "__main__" and not _is_installed(path):
            yield name, found.get("__spec__"), path


def _is_installed(path: str) -> bool:
    return path.startswith(_FIXED) or "site-packages" in path or "dist-packages" in path


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_size, found.st_ino
