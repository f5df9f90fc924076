"""The template: a clean, single-threaded interpreter that forks workers on request."""

from __future__ import annotations

import gc
import os

from bireme import _core, worker


def main(preload: tuple[str, ...] = (), start: str = "template") -> None:
    """Serve until the client is gone."""
    socket = os.dup(0)
    worker.silence_input()  # or what arrives could get descriptor 0
    host = _core.TemplateHost(socket)
    _core.set_title("bireme:template")
    for name in preload:
        __import__(name)
    gc.collect()
    gc.freeze()  # what is here now is shared with every worker: do not let the collector touch it
    while host.next():
        if len(os.listdir("/proc/self/task")) > 1:
            host.forked(None, 35)  # EDEADLK: a preloaded module started threads; a fork could hang
            continue
        try:
            pid = os.fork()
        except OSError as error:
            host.forked(None, error.errno or 11)
            continue
        if pid == 0:
            worker.main(host.take_birth(), start)
        host.forked(pid, 0)
    os._exit(0)
