"""CPython's own tests for `multiprocessing.Pool`, pointed at `bireme.Pool`.

    python -m tests.conformance.run [--start-method M]... [--only REGEX] [--verbose]

The tests are read from the interpreter's `test/_test_multiprocessing.py` at run time and written, with
`bireme.Pool` in the place of the standard one, to a temporary overlay package `test`. Classes:
`_TestPool`, `_TestPoolWorkerErrors` and `_TestPoolWorkerLifetime`, in their variants for processes. What
cannot apply is listed in `reasons.py`.

The list of tests comes from the *unchanged* source, so that an overlay that loses tests fails.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.adapter import START_METHOD
from tests.conformance.reasons import CANNOT_APPLY
from tests.support.processes import processes_with

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("template", "fork", "spawn", "forkserver")
CLASSES = ("_TestPool", "_TestPoolWorkerErrors", "_TestPoolWorkerLifetime")
_TOKEN = "BIREME_CONFORMANCE_TOKEN"

#: Appended to the suite's source: from here on its `multiprocessing` is ours.
_EPILOGUE = """
from tests.conformance.adapter import Face as _Face
multiprocessing = _Face(multiprocessing)
ProcessesMixin.Pool = staticmethod(multiprocessing.Pool)
"""

_CASES = """
from test._test_multiprocessing import install_tests_in_module_dict
install_tests_in_module_dict(globals(), {method!r}, only_type="processes")
"""


@dataclass(frozen=True)
class Outcome:
    """How one test ended: passed, failed, skipped, hung, crashed, left out."""

    test: str
    how: str
    message: str = ""

    @property
    def is_bad(self) -> bool:
        return self.how in ("failed", "hung", "crashed")


def suite_path() -> Path:
    """Return the source of CPython's tests, which some distributions ship apart."""
    return Path(sysconfig.get_paths()["stdlib"]) / "test" / "_test_multiprocessing.py"


def list_tests(source: str) -> list[str]:
    """Return the names of the tests in scope, read from the source without running it."""
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name in CLASSES:
            names += [
                f"WithProcesses{node.name[1:]}.{item.name}"
                for item in node.body
                if isinstance(item, ast.FunctionDef) and item.name.startswith("test")
            ]
    return names


def write_overlay(folder: Path, source: str, method: str) -> None:
    """Write a package `test` that is the interpreter's own but for the one module."""
    package = folder / "test"
    package.mkdir()
    (package / "__init__.py").write_text(f"__path__.append({str(suite_path().parent)!r})\n")
    inner = source.replace("from multiprocessing import Pool\n", "from bireme import Pool\n")
    (package / "_test_multiprocessing.py").write_text(inner + _EPILOGUE)
    # The classes live in a module that workers can import, as in CPython's own runs.
    standard_method = "spawn" if method == "template" else method
    (package / "bireme_pool.py").write_text(_CASES.format(method=standard_method))


def run_tests(method: str, tests: list[str], *, limit: float = 60.0) -> list[Outcome]:
    """Run tests with one start method; a hanging one is ended, and the others go on."""
    source = suite_path().read_text(encoding="utf-8")
    outcomes = [
        Outcome(test, "left out", CANNOT_APPLY[name])
        for test in tests
        if (name := test.split(".")[1]) in CANNOT_APPLY
    ]
    left = [test for test in tests if test.split(".")[1] not in CANNOT_APPLY]
    with tempfile.TemporaryDirectory(prefix="bireme-conformance-") as name:
        folder = Path(name)
        write_overlay(folder, source, method)
        while left:
            done = _run_until_stuck(folder, method, left, limit)
            outcomes += done
            ended = {outcome.test for outcome in done}
            left = [test for test in left if test not in ended]
    return sorted(outcomes, key=lambda outcome: tests.index(outcome.test))


def _run_until_stuck(folder: Path, method: str, tests: list[str], limit: float) -> list[Outcome]:
    events = folder / "events"
    events.write_text("")
    token = f"{os.getpid()}-{time.monotonic_ns()}"
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("worker.py")),
                str(events),
                *tests,
            ],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(
                    filter(None, (str(folder), str(ROOT), os.environ.get("PYTHONPATH")))
                ),
                "PYTHONDONTWRITEBYTECODE": "1",
                START_METHOD: method,
                _TOKEN: token,
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
    hung, size, moved = False, 0, time.monotonic()
    while process.poll() is None:
        time.sleep(0.02)
        if events.stat().st_size != size:
            size, moved = events.stat().st_size, time.monotonic()
        if time.monotonic() - moved > limit:
            hung = True
            process.send_signal(signal.SIGABRT)  # faulthandler prints where
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
            break
    process.wait()
    left_over = _end_left_over(token)
    said = (folder / "output").read_text(errors="replace")[-3000:]
    return _read_events(events, tests, hung=hung, said=said, left_over=left_over)


def _end_left_over(token: str) -> list[str]:
    """End what the tests left behind after a moment's grace; return the names."""
    deadline = time.monotonic() + 3.0
    while (left := processes_with(_TOKEN, token)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in left:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return [process.name for process in left]


def _read_events(
    events: Path, tests: list[str], *, hung: bool, said: str, left_over: list[str]
) -> list[Outcome]:
    seen: dict[str, Outcome] = {}
    current = None
    for line in events.read_text().splitlines():
        test, how, message = json.loads(line)
        if how == "begun":
            current = test
            continue
        if test not in tests:  # a class's or the module's set-up
            return [Outcome(tests[0], "failed", f"set-up: {message}")]
        if test not in seen or not seen[test].is_bad:
            seen[test] = Outcome(test, how, message)
        current = None
    if current is not None:
        seen[current] = Outcome(current, "hung" if hung else "crashed", said)
    elif not seen:
        seen[tests[0]] = Outcome(tests[0], "crashed", said)
    elif hung:
        last = list(seen)[-1]
        seen[last] = Outcome(last, "hung", f"after the test\n{said}")
    if left_over and not hung:
        last = list(seen)[-1]
        seen[last] = Outcome(last, "failed", f"processes left behind: {left_over}\n{said}")
    return list(seen.values())


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; return 1 when a test is bad."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.run")
    parser.add_argument("--start-method", choices=METHODS, action="append")
    parser.add_argument("--only", default="", help="regular expression on Class.test")
    parser.add_argument(
        "--verbose", action="store_true", help="print the reasons and every message"
    )
    options = parser.parse_args(arguments)
    if not suite_path().exists():
        print(f"{suite_path()} is not installed with this interpreter")
        return 1
    source = suite_path().read_text(encoding="utf-8")
    tests = [test for test in list_tests(source) if re.search(options.only, test)]
    known = {test.split(".")[1] for test in list_tests(source)}
    bad = [
        f"{name} is no test of this suite any more" for name in CANNOT_APPLY if name not in known
    ]
    for method in options.start_method or METHODS:
        began = time.monotonic()
        outcomes = run_tests(method, tests)
        counts = {
            how: sum(o.how == how for o in outcomes) for how in sorted({o.how for o in outcomes})
        }
        told = ", ".join(f"{count} {how}" for how, count in counts.items())
        print(f"{method:10} {told} of {len(tests)} ({time.monotonic() - began:.0f} s)", flush=True)
        for outcome in outcomes:
            if outcome.is_bad or (options.verbose and outcome.message):
                print(
                    f"  {outcome.how:8} {outcome.test}\n    "
                    + outcome.message.replace("\n", "\n    ")
                )
        bad += [outcome.test for outcome in outcomes if outcome.is_bad]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
