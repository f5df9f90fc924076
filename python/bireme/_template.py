"""The template: a clean, single-threaded interpreter that forks workers on request."""

from __future__ import annotations

import faulthandler  # noqa: F401  (as `_output`, for every worker)
import gc
import os
import signal
import sys
from time import sleep

from bireme import _core, _output, worker  # noqa: F401
from bireme._surroundings import THREAD_VARIABLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# After so many forks the template prepares more for those to come.
_MANY = 4
# How long a thread that a preloaded module started may take to end.
_THREADS_END_S = 1.0


def main(preload: Sequence[str] = (), path: Sequence[str] = (), start: str = "template") -> None:
    """Serve until the client is gone."""
    socket = os.dup(0)
    worker.silence_input()  # or what arrives could get descriptor 0
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # not ignored, as by some callers
    host = _core.TemplateHost(socket)
    _core.set_title("bireme:template")
    hindrance, starters = _import_all(preload, path) if preload else ("", [])
    _speak_up(host.take_stderr())
    gc.collect()
    gc.freeze()  # what is here now is shared with every worker: do not let the collector touch it
    forks = 0
    while host.next():
        hindrance = hindrance or _threads_in_the_way(starters or preload)
        if hindrance:
            host.refuse(hindrance)
            break
        try:
            pid = os.fork()
        except OSError as error:
            host.forked(None, error.errno or 11)
            continue
        if pid == 0:
            worker.main(host.take_birth(), start)
        host.forked(pid, 0)
        forks += 1
        if forks == _MANY:
            _prepare_more()
    os._exit(0)


def _prepare_more() -> None:
    """Import what many workers will need: few do not make up for the memory."""
    from bireme import _logs  # noqa: F401

    gc.collect()
    gc.freeze()


def _import_all(names: Sequence[str], path: Sequence[str]) -> tuple[str, list[str]]:
    """Import modules for all workers; tell what went wrong, and which of them started threads."""
    sys.path[:] = path
    # BLAS must not start threads here. A worker gets its own number: `_surroundings.apply`.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    starters = []
    for name in names:
        before = _count_threads()
        try:
            __import__(name)
        except BaseException as error:
            return _failed_import(name, error), []
        if _count_threads() > before:
            starters.append(name)
    try:
        import threadpoolctl  # noqa: F401  (workers need it)
    except ImportError:
        pass
    return "", starters


def _failed_import(name: str, error: BaseException) -> str:
    import traceback

    text = f"preload names {name!r}, which cannot be imported in the template: "
    text += traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, ModuleNotFoundError) and error.name == name:
        return text + "; name modules that this program could import"
    return f"{text}\n{''.join(traceback.format_exception(error)).rstrip()}"


def _threads_in_the_way(starters: Sequence[str]) -> str:
    """Say why threads forbid a fork; nothing if there are none, or if they end soon."""
    for _ in range(100):
        count = _count_threads()
        if count == 1:
            return ""
        sleep(_THREADS_END_S / 100)
    text = f"the template has {count} threads, and a fork of it could hang: "
    if not starters:
        return text + (
            "something that each interpreter loads at its start (a .pth file, sitecustomize) "
            "started them; use start_method='spawn', or start Python without it"
        )
    names = ", ".join(map(repr, starters))
    return text + (
        f"importing what preload names ({names}) started them; leave it out of preload, "
        "or use start_method='spawn'"
    )


def _count_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _speak_up(stderr: int | None) -> None:
    """Give the client's standard error what was said so far, and all that is said from now on."""
    if stderr is None:
        return
    sys.stderr.flush()
    said = os.pread(2, os.fstat(2).st_size, 0).rstrip(b"\0")
    os.dup2(stderr, 2)
    os.close(stderr)
    try:
        os.write(2, said)
    except OSError:
        pass  # nobody reads it
