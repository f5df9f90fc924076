"""Small programs that are measured from outside: a user's script that opens a pool, per contender.

Figures of a whole interpreter (start, memory) must not contain this package, so such rows run a
script file of their own, written here. It is a file and not ``-c``, because spawned workers import it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Contender to (its import, the expression that opens its pool of two).
POOLS = {
    "bireme": ("import bireme", "bireme.Pool(2)"),
    "bireme-fork": ("import bireme", "bireme.Pool(2, start_method='fork')"),
    "pool-fork": ("import multiprocessing", "multiprocessing.get_context('fork').Pool(2)"),
    "pool-spawn": ("import multiprocessing", "multiprocessing.get_context('spawn').Pool(2)"),
    "pool-forkserver": (
        "import multiprocessing",
        "multiprocessing.get_context('forkserver').Pool(2)",
    ),
    "executor": ("from concurrent.futures import ProcessPoolExecutor", "ProcessPoolExecutor(2)"),
    "loky": ("import loky", "loky.ProcessPoolExecutor(2)"),
    "mpire": ("import mpire", "mpire.WorkerPool(2, keep_alive=True)"),
}

SCRIPT = """\
import time
{opening}

def square(number):
    return number * number

def main():
    with {pool} as pool:
        assert list(pool.map(square, {items})) == [number * number for number in {items}]
        {then}

if __name__ == "__main__":
    main()
"""

INTERPRETER = "import time\n{then}\n"


@contextmanager
def script(contender: str, then: str, items: str = "range(2)") -> Iterator[list[str]]:
    """Write the program of a contender and yield the command that runs it.

    Parameters
    ----------
    contender : str
        A key of `POOLS`, or ``"interpreter"`` for a program without any pool.
    then : str
        The statement to run once the first results are there and checked.
    items : str
        The expression for what is mapped.
    """
    if contender == "interpreter":
        source = INTERPRETER.format(then=then)
    else:
        opening, pool = POOLS[contender]
        source = SCRIPT.format(opening=opening, pool=pool, items=items, then=then)
    with tempfile.TemporaryDirectory(prefix="bireme-bench-") as folder:
        path = Path(folder) / "program.py"
        path.write_text(source)
        yield [sys.executable, str(path)]


def last_line(errors: str) -> str:
    """Return the last line of what a program wrote to its standard error: of a traceback, the error."""
    return (errors.strip().splitlines() or ["(silent)"])[-1][:200]


def run(command: list[str]) -> str:
    """Run a program to its end and return what it printed; raise with its last words if it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {last_line(done.stderr)}")
    return done.stdout
