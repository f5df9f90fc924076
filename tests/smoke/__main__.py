"""Run the smoke suite from a wheel on every other supported interpreter of this machine.

``python -m tests.smoke`` (which is ``make smoke``) looks for python3.11, python3.12, ... on PATH and
under pyenv, and gives each one an environment of its own in build/smoke. Version numbers on the
command line restrict it: ``python -m tests.smoke 3.13``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "smoke"
MINORS = range(11, 16)
# A free-threaded build needs a wheel of its own kind, which is a lane of its own.
PROBE = (
    "import sys, sysconfig, ensurepip, venv\n"
    "if not sysconfig.get_config_var('Py_GIL_DISABLED'):\n"
    "    print('%d.%d' % sys.version_info[:2])"
)


def answers(python: Path) -> str | None:
    """Return the version that `python` reports, or None when it is no usable interpreter."""
    # A pyenv shim for a version that is not active exists and fails: only running it tells.
    try:
        done = subprocess.run(
            [python, "-c", PROBE], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def find_interpreters() -> dict[str, Path]:
    """Return one interpreter for each minor version other than the one running this."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found: dict[str, Path] = {}
    for minor in MINORS:
        version = f"3.{minor}"
        if minor == sys.version_info.minor:
            continue
        on_path = shutil.which(f"python{version}")
        candidates = [Path(on_path)] if on_path else []
        candidates += sorted(pyenv.glob(f"versions/*/bin/python{version}"), reverse=True)
        usable = (python for python in candidates if answers(python) == version)
        if python := next(usable, None):
            found[version] = python
    return found


def run(*command: str | Path, cwd: Path = ROOT, **environ: str) -> int:
    """Show a command and run it; return its exit status."""
    print("+", *command, flush=True)
    return subprocess.run(command, cwd=cwd, env=os.environ | environ, check=False).returncode


def build(python: Path | str) -> Path | None:
    """Build the wheel for an interpreter, or return the one that fits them all; None on failure."""
    wheels = WORK / "wheels"
    if stable := next(wheels.glob("*-abi3-*.whl"), None):
        return stable
    maturin = Path(sys.executable).with_name("maturin")
    if run(maturin, "build", "--release", "--locked", "-i", python, "--out", wheels):
        return None
    return max(wheels.glob("*.whl"), key=lambda wheel: wheel.stat().st_mtime_ns)


def smoke(version: str, python: Path, wheel: Path) -> bool:
    """Install and test a wheel in a new environment; return whether all of it worked."""
    home = WORK / version
    if run(python, "-m", "venv", home / "venv"):
        return False
    inside = home / "venv" / "bin" / "python"
    pip = (inside, "-m", "pip", "--quiet")
    if run(*pip, "install", "pip==26.3") or run(*pip, "install", "--group", "smoke"):
        return False
    if run(*pip, "install", wheel):
        return False
    # The newest interpreters come before NumPy's wheels for them: its tests are skipped there.
    if run(*pip, "install", "--only-binary=:all:", "numpy"):
        print(f"no NumPy for Python {version}")
    # From another folder, so that only the wheel can provide the package; the workers find the
    # tests' own functions by PYTHONPATH.
    tests = Path(__file__).parent
    pytest = (inside, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-p", "no:cacheprovider")
    options = ("--rootdir", ROOT, "--confcutdir", tests, tests)
    return run(*pytest, *options, cwd=home, PYTHONPATH=str(ROOT)) == 0


def main(wanted: list[str]) -> int:
    """Run the suite on each interpreter, or on those wanted; return the exit status."""
    found = find_interpreters()
    if absent := [version for version in wanted if version not in found]:
        print("not found:", *absent)
        return 1
    shutil.rmtree(WORK, ignore_errors=True)
    # The first build is for this interpreter, as in `make build`: with a stable ABI it serves all.
    build(sys.executable)
    results = {}
    for version, python in found.items():
        if not wanted or version in wanted:
            wheel = build(python)
            results[version] = wheel is not None and smoke(version, python, wheel)
    if not results:
        print("no interpreter beside the default one: nothing to smoke-test")
    for version, passed in results.items():
        print(f"smoke suite on Python {version}: {'passed' if passed else 'FAILED'}")
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
