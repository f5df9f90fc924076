"""Where the workers of a pool come from, and what a fork or the end of this process does to pools."""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import weakref
from _thread import get_native_id

from bireme import _checks, _core, _surroundings
from bireme._modules import attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from bireme._boot import Heritage
    from bireme._main import Inherited
    from bireme.pool import Pool

_START_METHODS = ("template", "fork", "spawn", "forkserver")
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def start_method_of(start_method: str | None, context: Any) -> str | None:
    """Check the start method that a pool's arguments name; None if they leave it to us."""
    if context is not None:
        wanted = context if isinstance(context, str) else _start_method_in(context)
        if wanted not in _START_METHODS:
            _checks.refuse(ValueError, "context", f"one of {', '.join(_START_METHODS)}", context)
        if start_method not in (None, wanted):
            raise ValueError(
                f"context asks for start method {wanted!r}, start_method for {start_method!r}"
            )
        start_method = wanted
    worker = sys.modules.get("bireme.worker")
    if worker is not None and worker.preparing:
        raise RuntimeError(
            "a pool is made while this worker imports the main module; with start_method="
            f"{worker.preparing!r} what a script does must be under `if __name__ == '__main__':`"
        )
    if start_method is not None and start_method not in _START_METHODS:
        _checks.refuse(
            ValueError, "start_method", f"one of {', '.join(_START_METHODS)}", start_method
        )
    return start_method


def _start_method_in(context: Any) -> Any:
    try:
        return context.get_start_method()
    except AttributeError:
        wanted = "a multiprocessing context or the name of a start method"
        _checks.refuse(TypeError, "context", wanted, context)


def birth_place(start_method: str, preload: Any) -> tuple[str, list[str]]:
    """Give where the core gets workers from, and the command that starts an interpreter."""
    names = None if isinstance(preload, (str, bytes)) else _listed(preload)
    if names is None:
        _checks.refuse(TypeError, "preload", "a sequence of module names, as in ('json',)", preload)
    if start_method == "fork":
        _prepare_forks()
        return "caller", []
    if start_method == "spawn":
        return "interpreter", _surroundings.interpreter(
            "from bireme.worker import spawned; spawned()"
        )
    # What is imported there depends on the path: pools with another one need another template.
    path = _surroundings.absolute_path() if names else []
    code = f"from bireme._template import main; main({names!r}, {path!r}, {start_method!r})"
    return "template", _surroundings.interpreter(code)


def _prepare_forks() -> None:
    """Import what every forked worker needs, or each one would."""
    import faulthandler  # noqa: F401

    from bireme import _output, worker  # noqa: F401


def _listed(names: Any) -> list[str] | None:
    try:
        listed = list(names)
    except TypeError:
        return None
    return listed if all(isinstance(name, str) for name in listed) else None


def warn_of_threads() -> None:
    """Say which threads would be cut off by a fork."""
    others = _other_threads()
    if others:
        import warnings

        warnings.warn(
            f"start_method='fork' while other threads live ({', '.join(others)}): locks that they "
            "hold stay held in the workers, which may hang; the default start method has no such risk",
            RuntimeWarning,
            stacklevel=3,
        )


def _other_threads() -> list[str]:
    """Name the threads beside this one that Python code started."""
    names = []
    reader = sys.modules.get("bireme._reader")
    if reader is not None:
        names = [f"the reader of an imap of {pool!r}" for pool in reader.at_work()]
    known = len(names)
    if "threading" in sys.modules:
        import threading

        for thread in threading.enumerate():
            # A dummy stands for a thread that somebody else started: a library, we, or `_thread`.
            if thread is threading.current_thread() or isinstance(thread, threading._DummyThread):
                continue
            known += thread is not threading.main_thread()
            if thread.name != "tqdm_monitor":  # it only sleeps
                names.append(thread.name)
    shared_pool = sys.modules.get("bireme._shared_pool")
    if shared_pool is not None and shared_pool._watcher is not None:
        known += 1  # it ends before a fork
    nameless = _thread._count() - (get_native_id() != os.getpid()) - known
    if nameless > 0:
        # Or so it seems: in a forked child `_thread` still counts its parent's threads.
        nameless = min(nameless, _count_foreign_threads() - known)
    if nameless > 0:
        names.append(f"{nameless} without a name, started by `_thread`")
    return names


def _count_foreign_threads() -> int:
    """Count what the system shows beside the main thread, this one and ours in Rust."""
    count = 0
    for number in {*os.listdir("/proc/self/task")} - {str(os.getpid()), str(get_native_id())}:
        try:
            with open(f"/proc/self/task/{number}/comm") as comm:
                count += not comm.read().startswith("bireme-")
        except OSError:
            continue  # it has just ended
    return count


class Forker:
    """Forks a pool's workers when its client asks for them; made by the pool, kept by the client.

    The client must not keep the heritage while there is a pool: it may lead back to that, on ways
    that no garbage collection sees.

    Parameters
    ----------
    heritage : Heritage or None
        What the workers need.
    names : Inherited or None
        Notes what they have of ``__main__``.
    """

    def __init__(self, heritage: Heritage | None, names: Inherited | None) -> None:
        self._held: Callable[[], Heritage | None] = (
            weakref.ref(heritage) if heritage is not None else lambda: None
        )
        self._names = names

    def outlive_pool(self, heritage: Heritage | None) -> None:
        """Keep what later workers need: the pool is gone, but results of it are awaited."""
        self._held = lambda: heritage

    def __call__(self, client: _core.Client) -> None:
        """Fork the workers that are wanted; the children never return from here."""
        heritage, names = self._held(), self._names
        if heritage is None or names is None:
            return
        try:
            while (wanted := client.next_birth()) is not None:
                names.note_fork()
                _fork_one(client, heritage, *wanted)
        finally:
            client.leave_births()
        _core.resume_pools()  # this may not be the main thread


def _fork_one(client: _core.Client, heritage: Heritage, row: int, birth: _core.Birth) -> None:
    # Ctrl-C between the fork and the news of it would leave a worker that nobody knows.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    in_main_thread = get_native_id() == os.getpid()
    # Before the fork and not amid its hooks: what another thread imported there may have hooks itself, of
    # which only the second would be called.
    for one in _clients():
        one.pause(False)
    try:
        pid = os.fork()
        if pid == 0:
            _be_forked(client, heritage, birth, in_main_thread)
        birth.discard()
        client.born(row, pid, 0)
    except OSError as error:
        birth.discard()
        client.born(row, None, error.errno or 11)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _be_forked(
    client: _core.Client, heritage: Heritage, birth: _core.Birth, in_main_thread: bool
) -> NoReturn:
    """Be a worker in a child that was just forked; nothing of the caller's code runs on."""
    try:
        if not in_main_thread:
            _forget_half_imports()
        for number in client.private_fds():
            os.close(number)
        from bireme import worker

        worker.main(birth, "fork", heritage)
    finally:
        os._exit(1)


def _forget_half_imports() -> None:
    """Have modules imported anew that another thread, which is not here, was just importing."""
    locks = getattr(sys.modules.get("_frozen_importlib"), "_module_locks", {})
    for name, module in list(sys.modules.items()):
        spec = attributes(module).get("__spec__")
        if getattr(spec, "_initializing", False) is True:
            del sys.modules[name]
            locks.pop(name, None)


# The end of this process --------------------------------------------------------


def _clients() -> Iterator[_core.Client]:
    if os.getpid() != _owner:
        return iter(())  # inherited by a fork: not ours
    return iter([pool._client for pool in list(_pools) if pool._client is not None])


_registered = False
_owner = 0  # the process whose pools these are


def register(pool: Pool) -> None:
    """Note a new pool: the end of this process concerns it."""
    global _owner, _registered
    if _owner != os.getpid():
        _pools.clear()  # a parent's
        _owner = os.getpid()
    _pools.add(pool)
    if not _registered:
        _registered = True
        atexit.register(_end_all)


def _end_all() -> None:
    for client in _clients():
        client.terminate()
    for client in _clients():
        client.terminate()  # a thread may have made one since
        for _ in range(100):
            if client.wait_finished(0.05):
                break
        client.pause(True)
    _core.end_templates()
    _core.end_begins()
