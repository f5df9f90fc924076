"""A worker process: what it sets up, and the Python side of its loop."""

from __future__ import annotations

import _pickle as pickle  # `pickle` itself imports much more
import os
import signal
import sys

from bireme import _core, _inherit, _multiprocessing, _remote, _surroundings
from bireme.serialize import Decoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from bireme._boot import Heritage
    from bireme._output import LineStream

# The worker that this process is, once it is one.
_current: Hooks | None = None
# Its standard output and error, if they go to the caller.
_lines: list[LineStream] = []
# The start method, while a worker of it imports the main module.
preparing = ""


class Hooks:
    """What the core's loop asks of Python; one a process.

    Parameters
    ----------
    core : _core.Worker
        The kernel's side.
    by_value_main : bool
        Whether members of ``__main__`` arrive by value.
    """

    def __init__(self, core: _core.Worker, by_value_main: bool) -> None:
        self.core = core
        self.decoder = Decoder(by_value_main)
        self.load_function = self.decoder.load_function
        self.loads = self.decoder.loads
        self.dumps_result = self.decoder.dumps_result
        self.seeded = False
        self._handler = signal.getsignal(signal.SIGINT)

    def encode_exception(self, error: BaseException) -> bytes:
        """Encode what a task raised, without the frames of this loop."""
        return _remote.encode(error, self.decoder)

    def seed_item(self, seed: int, index: int) -> None:
        """Give the next item its own streams."""
        from bireme._seeds import seed_item

        self.seeded = True
        seed_item(seed, index)

    def leave(self, code: Any) -> NoReturn:
        """End this process as `sys.exit(code)` would."""
        if code is None:
            code = 0
        elif not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
            code = 1
        _end(code & 0xFF)

    def install(self) -> None:
        """Take SIGINT: it stops a task only if that task was asked to stop."""
        signal.signal(signal.SIGINT, _on_interrupt)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._handler = _on_interrupt

    def reap_orphans(self) -> None:
        """Wait for the ended processes that nobody else can wait for."""
        from bireme import _orphans

        _orphans.reap()

    def end_task(self) -> None:
        """End what the task left open: a line, signal handlers."""
        for stream in _lines:
            stream.end_task()
        if signal.getsignal(signal.SIGINT) is not self._handler:
            self.install()
        if self.seeded:
            from bireme._seeds import leave_items

            self.seeded = False
            leave_items()


def _on_interrupt(number: int, frame: Any) -> None:
    if _core.stop_requested():
        raise _remote.TaskStopped


def _streams() -> list[Any]:
    """Give the standard streams that there are: a task may have deleted them."""
    return [vars(sys).get("stdout"), vars(sys).get("stderr")]


def _end(code: int) -> NoReturn:
    for stream in _streams():
        try:
            stream.flush()
        except Exception:  # a closed stream has nothing to lose
            continue
    os._exit(code)


def _redirect(out: int, err: int) -> None:
    """Send descriptors 1 and 2, and Python's streams, to the client, unbuffered."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    from bireme._output import LineStream

    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = LineStream(number)
        _lines.append(stream)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def silence_input() -> None:
    """Read nothing from standard input: it is the caller's, or a control socket."""
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0)
        os.close(null)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  (it lives as long as the process)


def _reseed() -> None:
    """Streams of their own for forked workers."""
    if "random" in sys.modules:
        sys.modules["random"].seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


def main(birth: _core.Birth, start: str = "template", heritage: Heritage | None = None) -> NoReturn:
    """Be the worker that `birth` describes; a fork has a heritage. Never returns."""
    code = 1
    try:
        code = _main(birth, start, heritage)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _end(code)


def _main(birth: _core.Birth, start: str, heritage: Heritage | None) -> int:
    global _current, preparing
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the thread that forked may have blocked them
    silence_input()  # before anything else could get descriptor 0
    core = _core.Worker(birth)
    main_bytes, buffers = core.boot()
    boot = pickle.loads(main_bytes)
    story, out, err = core.fds()
    _lines.clear()  # of the worker that this one is a fork of
    if boot["forward_output"]:
        _redirect(out, err)
    import faulthandler

    faulthandler.enable(file=story)
    if start == "fork":
        _surroundings.cap_threads(boot["threads"])
    else:
        _surroundings.apply(boot["surroundings"], main=boot["by_value_main"])
    os.environ["BIREME_WORKER"] = core.mark  # known by it is whatever this worker starts
    _multiprocessing.be_worker(core.serial, boot["owner"], boot["multiprocessing"], start == "fork")
    _core.set_title(f"bireme:{core.row}:{boot['name']}")
    _reseed()
    if start in ("spawn", "forkserver"):
        from multiprocessing import spawn

        preparing = start
        spawn.prepare(boot["preparation"])
        preparing = ""
    hooks = _current = Hooks(core, boot["by_value_main"])
    hooks.install()
    levels = boot["surroundings"].get("logging")
    if levels is not None or "logging" in sys.modules:
        from bireme import _logs

        _logs.install(core.log, core.row, _multiprocessing.worker_name(), levels)
    core.watch_forks()
    if heritage is not None or boot["initializer"] is not None:
        try:
            function, args = _initializer(hooks, boot, buffers, heritage)
            if function is not None:
                function(*args)
        except BaseException as error:
            core.initializer_failed(_remote.encode_to_fit(error, hooks.decoder))
            return 1
    core.ready()
    core.run(hooks)
    _inherit.send_rest()
    # A template finds what its workers leave behind without being told. Threads of tasks might still start some.
    if start != "template" and len(sys._current_frames()) == 1:
        core.tell_who_stays()
    return 0


def _initializer(
    hooks: Hooks, boot: dict[str, Any], buffers: list[Any], heritage: Heritage | None
) -> tuple[Callable[..., object] | None, tuple[Any, ...]]:
    if heritage is not None:
        return heritage.initializer, heritage.initargs
    with _inherit.taking_over(hooks.core.take_given()):
        function = hooks.decoder.load_function(boot["initializer"], buffers[: boot["split"]])
        return function, hooks.loads(boot["initargs"], buffers[boot["split"] :])


def spawned() -> None:
    """Be a worker in a fresh interpreter: its birth comes over standard input."""
    socket = os.dup(0)
    silence_input()  # or what arrives could get descriptor 0
    main(_core.receive_birth(socket), "spawn")
