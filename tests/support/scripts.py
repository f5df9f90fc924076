"""Programs run as a user runs them: a file of its own, a fresh interpreter, an empty folder."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes import Process, processes_with
from tests.support.waiting import poll

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TOKEN = "BIREME_TEST_TOKEN"

#: The environment in which a script can import `tests.integration.tasks`.
WITH_TASKS = {
    "PYTHONPATH": os.pathsep.join(
        filter(None, (str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")))
    )
}

#: Makes the terminal on stdin the session's own, then becomes the command that follows.
_ADOPT_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class Result:
    """How a script ended."""

    stdout: str
    stderr: str
    returncode: int
    #: Processes of the script that were still alive `grace` seconds after its end (now killed).
    survivors: list[Process]

    @property
    def tracebacks(self) -> int:
        """How many tracebacks it printed."""
        return (self.stdout + self.stderr).count("Traceback (most recent call last)")

    def check(self) -> Result:
        """Assert that the script succeeded and left nobody behind."""
        assert self.returncode == 0, self.describe()
        assert not self.survivors, self.describe()
        return self

    def describe(self) -> str:
        """Return everything known, for a failure's message."""
        return (
            f"exit code {self.returncode}, survivors {self.survivors}\n"
            f"--- stdout ---\n{self.stdout[-6000:]}\n--- stderr ---\n{self.stderr[-6000:]}"
        )


class Script:
    """A script that runs beside the test; `with` sees to its end and to that of all its kin.

    Parameters
    ----------
    source : str
        The program; indented as a whole if that suits the test.
    args : sequence of str
        Its arguments.
    env : mapping, optional
        Variables set on top of the caller's; a value of ``None`` removes one.
    interpreter_args : sequence of str
        Options before the script's name, such as ``("-W", "error")``.
    prefix : sequence of str
        A command that starts the interpreter, such as ``setpriv ...``.
    terminal : bool
        Give it a terminal of its own, where it is the foreground group; both outputs go there.
    modules : mapping of str to str, optional
        Further files put beside the script.
    """

    def __init__(
        self,
        source: str,
        *,
        args: Sequence[str] = (),
        env: Mapping[str, str | None] | None = None,
        interpreter_args: Sequence[str] = (),
        prefix: Sequence[str] = (),
        terminal: bool = False,
        modules: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bireme-script-"))
        self.folder.chmod(0o755)  # other users must be able to enter it
        for name, text in {**(modules or {}), "script.py": source}.items():
            (self.folder / name).write_text(textwrap.dedent(text))
        self._token = uuid.uuid4().hex
        self.out, self.err = bytearray(), bytearray()
        self._terminal = terminal
        if terminal:
            prefix = (sys.executable, "-S", "-c", _ADOPT_TERMINAL, *prefix)
        command = [*prefix, sys.executable, *interpreter_args, "script.py", *args]
        streams = (
            self._open_terminal() if terminal else (subprocess.DEVNULL, *[subprocess.PIPE] * 2)
        )
        self.process = subprocess.Popen(
            command,
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            cwd=self.folder,
            env=self._environment(env or {}),
            start_new_session=True,
        )
        self.pid = self.process.pid
        if terminal:
            os.close(streams[0])
        self._readers = [
            threading.Thread(target=_drain, args=source_and_target, daemon=True)
            for source_and_target in self._sources()
        ]
        for reader in self._readers:
            reader.start()

    def _environment(self, changes: Mapping[str, str | None]) -> dict[str, str]:
        env = {**os.environ, "PYTHONFAULTHANDLER": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        env.pop("PYTEST_CURRENT_TEST", None)
        for name, value in {**changes, _TOKEN: self._token}.items():
            if value is None:
                env.pop(name, None)
            else:
                env[name] = value
        return env

    def _open_terminal(self) -> tuple[int, int, int]:
        self._controller, follower = os.openpty()
        return follower, follower, follower

    def _sources(self) -> list[tuple[int, bytearray]]:
        if self._terminal:
            return [(self._controller, self.out)]
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        return [(self.process.stdout.fileno(), self.out), (self.process.stderr.fileno(), self.err)]

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return bytes(self.out).decode(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has written to its error stream so far."""
        return bytes(self.err).decode(errors="replace")

    def wait_for_output(self, text: str, *, timeout: float = 60.0) -> None:
        """Wait until `text` is in a whole line that the script printed."""

        def printed() -> bool:
            return text in self.stdout.rpartition("\n")[0]

        poll(lambda: printed() or self.process.poll() is not None, timeout=timeout)
        assert poll(printed, timeout=2.0), f"{text!r} never came; {self.stdout!r} {self.stderr!r}"

    def press_control_c(self) -> None:
        """Type Ctrl-C at the script's terminal: SIGINT for its whole foreground group."""
        os.write(self._controller, b"\x03")

    def family(self) -> list[Process]:
        """Return the living processes of the script, itself included, wherever they went."""
        return processes_with(_TOKEN, self._token)

    def wait(self, *, timeout: float = 60.0, grace: float = 5.0) -> Result:
        """Wait for the script's end, and up to `grace` seconds more for the end of its kin."""
        hung = False
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            hung = True
            self.process.send_signal(signal.SIGABRT)  # faulthandler prints the stacks
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5.0)
        if not hung:
            poll(lambda: not self.family(), timeout=grace)
        survivors = self.family()
        self._end()
        result = Result(self.stdout, self.stderr, self.process.returncode, survivors)
        assert not hung, f"the script hung for {timeout} s: {result.describe()}"
        return result

    def _end(self) -> None:
        deadline = time.monotonic() + 10.0
        while (left := self.family()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.01)
        self.process.wait(10.0)
        for reader in self._readers:
            reader.join(5.0)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        if self._terminal and self._controller >= 0:
            os.close(self._controller)
            self._controller = -1
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()


def run_script(
    source: str,
    *,
    args: Sequence[str] = (),
    timeout: float = 60.0,
    env: Mapping[str, str | None] | None = None,
    interpreter_args: Sequence[str] = (),
    prefix: Sequence[str] = (),
    modules: Mapping[str, str] | None = None,
) -> Result:
    """Run a script to its end; see `Script` for the parameters.

    Fails the test when the script has not ended after `timeout` seconds.
    """
    with Script(
        source,
        args=args,
        env=env,
        interpreter_args=interpreter_args,
        prefix=prefix,
        modules=modules,
    ) as script:
        return script.wait(timeout=timeout)


def _drain(source: int, target: bytearray) -> None:
    """Read until the end; a terminal whose last holder went away gives EIO instead."""
    while True:
        try:
            ready, _, _ = select.select([source], [], [], 0.2)
            if not ready:
                continue
            data = os.read(source, 1 << 16)
        except (OSError, ValueError):
            return
        if not data:
            return
        target += data
