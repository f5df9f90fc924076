"""Every page of the documentation runs.

The ``python`` blocks of a page, in order, are one script: a real ``__main__``, in a process of its
own, with warnings as errors. Where the page shows output (fences titled ``output``), the script must
print just that. A ``py`` fence is for reading only: what another library does, or a notebook, or a
terminal. CONTRIBUTING.md says so to writers.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")
TIMEOUT_SECONDS = 100


def fences(text: str):
    """Yield (info string, line number of the first line, lines) for each fence of a page."""
    info = indent = None
    start, body = 0, []
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if info is not None and fence and not fence["info"].strip():
            yield info, start, body
            info = None
        elif info is not None:
            body.append(line.removeprefix(indent))
        elif fence:
            info, indent, start, body = fence["info"].strip(), fence["indent"], number + 1, []
    assert info is None, f"a fence opened before line {start} is never closed"


def script_of(text: str) -> tuple[str, str | None]:
    """Return the page's program, each line where it stands in the page, and its output if shown."""
    program = [""] * len(text.splitlines())
    shown: list[str] = []
    for info, start, body in fences(text):
        if info.split(" ")[0] == "python":
            program[start - 1 : start - 1 + len(body)] = body
        elif 'title="output"' in info:
            shown += body
    return "\n".join(program) + "\n", "\n".join(shown) + "\n" if shown else None


PROGRAMS = {
    str(page.relative_to(ROOT)): script_of(page.read_text(encoding="utf-8")) for page in PAGES
}


@pytest.mark.parametrize(
    "page", [page for page, (program, _) in PROGRAMS.items() if program.strip()]
)
def test_page_runs(page, tmp_path):
    program, shown = PROGRAMS[page]
    script = tmp_path / "page.py"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "faulthandler", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    # The script's line numbers are the page's: a traceback points into the page.
    # A warning turned error in a destructor or at exit is only reported, on standard error.
    if done.returncode != 0 or "Exception ignored" in done.stderr:
        report = f"{page}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        pytest.fail(report, pytrace=False)
    if shown is not None:
        assert done.stdout == shown


def test_pages_are_found():
    assert len(PROGRAMS) > 5


def test_blocks_become_one_script():
    page = '# A\n```python\nx = 1\n```\n- item\n\n  ```python title="b.py"\n  print(x)\n  ```\n'
    page += '```py\nnot run\n```\n```text title="output"\n1\n```\n'
    program, shown = script_of(page)
    assert program.splitlines()[2] == "x = 1"
    assert program.splitlines()[7] == "print(x)"
    assert "not run" not in program
    assert shown == "1\n"
