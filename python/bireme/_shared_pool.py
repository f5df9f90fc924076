"""The default pools: made at first need, reused, renewed when the program's surroundings changed.

A pool here is owned by whoever refers to it: `_entries` while it is the default, and every call
and iterator that uses it. To drop one is to forget it, and the last of them ends its workers; so
a call in another thread is never disturbed.

One light thread forgets pools that were idle for `IDLE_S`, and after the last of them the templates
that no other pool uses. It takes no lock that it would have to wait for, ends before a fork (`os.fork`
must find no thread of ours), and starts again at the next use of a default pool.
"""

from __future__ import annotations

import _thread
import atexit
import os
import sys
from time import monotonic

from bireme import _core
from bireme._modules import Sources
from bireme.pool import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

IDLE_S = 30.0
# Pools at one time: each differs from the others in its number of workers or start method.
_MOST = 3
# Until workers are there: with a first template, and with the template at hand. On a quiet machine
# it was two thirds of that; the caller itself is kept for about a millisecond.
_FIRST_START_S = 0.05
_START_S = 0.01

_Key = tuple[int, str]


class DefaultPool(Pool):
    """A pool whose workers end with the last reference to it."""

    def __del__(self) -> None:
        self._closing = True
        super().__del__()


class _Entry:
    """A default pool and what it has seen of its owner."""

    def __init__(self, workers: int, start_method: str) -> None:
        self.surroundings = _surroundings()
        self._sources = Sources()
        self.pool = DefaultPool(workers, start_method=start_method, name="default")
        self.used = monotonic()

    def fits(self) -> bool:
        """Whether the workers are what new ones would be, for all that can be seen cheaply."""
        client = self.pool._client
        if client is None or client.finished() or client.broken() is not None:
            return False
        return self.surroundings == _surroundings() and not self._sources.changed()


_entries: dict[_Key, _Entry] = {}
_lock = _thread.RLock()
_inherited: list[_Entry] = []  # a forked child's: its parent's pools, which must not be ended here
# The watching thread: held by us until it is to end; held by it until it ends; its id.
_watcher: tuple[_thread.LockType, _thread.LockType, list[int]] | None = None
_registered = False
_started = False


def find(workers: int, start_method: str) -> Pool:
    """Give the default pool of so many workers; make it if need be."""
    global _started
    key = workers, start_method
    with _lock:
        entry = _entries.pop(key, None)
        if entry is None or not entry.fits():
            _register()
            entry = _Entry(workers, start_method)
            _started = True
        entry.used = monotonic()
        _entries[key] = entry  # the latest used is the last
        while len(_entries) > _MOST:
            del _entries[next(iter(_entries))]
        _watch_idle()
        return entry.pool


def start_s() -> float:
    """Estimate the seconds until a default pool would take a task."""
    if _entries:
        return 0.0
    return _START_S if _started else _FIRST_START_S


def end() -> None:
    """Forget all default pools and end the watching thread."""
    _stop_watcher()
    with _lock:
        _entries.clear()


def _surroundings() -> tuple[Any, ...]:
    try:
        cwd = os.getcwd()
    except OSError:  # it was removed
        cwd = None
    environ = dict(getattr(os.environ, "_data", os.environ))  # the raw one is there faster
    warnings = sys.modules.get("warnings")
    filters = () if warnings is None else tuple(warnings.filters)
    levels = None
    if "logging" in sys.modules:
        from bireme import _logs

        # Only what the program did with it counts: to import it is nothing yet.
        levels = _logs.levels() if _logs.is_used() else None
    path, argv = tuple(sys.path), tuple(sys.argv)
    return cwd, path, argv, sys.getrecursionlimit(), environ, filters, levels


# Idleness, forks, the end -----------------------------------------------------------------


def _register() -> None:
    global _registered
    if not _registered:
        _registered = True
        atexit.register(end)
        os.register_at_fork(before=_stop_watcher, after_in_child=_disown)


def _watch_idle() -> None:
    global _watcher
    if _watcher is None:
        watcher = _thread.allocate_lock(), _thread.allocate_lock(), list[int]()
        watcher[0].acquire()
        watcher[1].acquire()
        try:
            _thread.start_new_thread(_watch, watcher)
        except RuntimeError:  # no thread to be had: the pools live until the end of the program
            return
        _watcher = watcher


def _watch(stop: _thread.LockType, ended: _thread.LockType, me: list[int]) -> None:
    global _watcher, _started
    me.append(_thread.get_native_id())
    try:
        while not stop.acquire(True, max(IDLE_S / 4, 0.01)):
            if not _lock.acquire(False):
                continue
            try:
                if not _entries:  # since the last look: their workers have ended
                    _core.end_templates(unused=True)
                    _started = False
                    _watcher = None
                    return
                _forget_idle()
            finally:
                _lock.release()
    finally:
        ended.release()


def _forget_idle() -> None:
    for key, entry in list(_entries.items()):
        client = entry.pool._client
        if monotonic() - entry.used < IDLE_S:
            continue
        if client is not None and client.outstanding():
            entry.used = monotonic()
        else:
            del _entries[key]


def _stop_watcher() -> None:
    global _watcher
    watcher, _watcher = _watcher, None
    if watcher is not None:
        stop, ended, thread = watcher
        stop.release()
        ended.acquire()
        # It has done its last line; a fork is to find that the system has seen it go, too.
        _core.wait_for_thread_end(thread[0])


def _disown() -> None:
    global _lock, _started
    _inherited.extend(_entries.values())
    _entries.clear()
    _lock = _thread.RLock()
    _started = False
