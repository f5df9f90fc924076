"""``import bireme`` loads nothing heavy: what only some users need is imported where they need it."""

from __future__ import annotations

import json
import subprocess
import sys

# Each costs milliseconds, some of them tens; every program that imports bireme would pay.
HEAVY = {
    "asyncio", "cloudpickle", "concurrent", "ctypes", "dataclasses", "email", "http", "inspect",
    "IPython", "json", "logging", "matplotlib", "multiprocessing", "numpy", "pandas", "pdb",
    "psutil", "random", "socket", "subprocess", "tempfile", "tqdm", "typing", "unittest", "urllib",
}  # fmt: skip
MODULES = "import sys; {0}; print(*sorted(sys.modules), sep='\\n')"


def modules_after(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after a statement."""
    done = subprocess.run(
        [sys.executable, "-c", MODULES.format(statement)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_import_is_light():
    # What the bare interpreter loads (site hooks of an environment) is not bireme's doing.
    loaded = modules_after("import bireme") - modules_after("pass")
    assert "bireme" in loaded
    assert loaded & HEAVY == set()


def test_public_names_exist():
    names = (
        "import bireme, json; "
        "print(json.dumps([n for n in bireme.__all__ if not hasattr(bireme, n)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", names], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == []
