"""Every example is a program: run at a small size, as a user runs it, with its output checked."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("[!_]*.py"))


def run(program: str, *arguments: object, cwd: Path | None = None) -> str:
    """Run an example to its end and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, f"{program} failed:\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two packages and a single module whose counts are known; one file is no Python."""
    files = {
        "oars/__init__.py": "from os import path, sep\n",
        "oars/stroke.py": "import math\n\n\ndef pull(force):\n    return math.sqrt(force)\n",
        "oars/broken.py": "def (:\n",
        "hull/deck.py": "class Deck:\n    async def walk(self):\n        return self\n",
        "keel.py": "keel = 1\nprint(keel, keel)\n",
    }
    for name, text in files.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "project"


def test_every_example_is_run_here() -> None:
    source = Path(__file__).read_text()
    assert [name for name in PROGRAMS if f'"{name}"' not in source] == []


@pytest.mark.parametrize("program", [name for name in PROGRAMS if name != "quickstart.py"])
def test_help_explains(program: str) -> None:
    assert f"python examples/{program}" in run(program, "--help")


def test_quickstart() -> None:
    output = run("quickstart.py")
    assert "1472 primes between 1000000 and 1019999" in output
    assert "[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]" in output
    assert "(3, 2)" in output
    assert "[1, 2, 3]" in output
    assert "the task failed: division by zero" in output


def test_five_agents_make_five_dispatches() -> None:
    output = run("five_agents.py", "--seconds", 0.01)
    rows = [line.split() for line in output.splitlines() if re.match(r"\d+ +\d+ ", line)]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [sum(cell == "=" for cell in row) for row in rows] == [3, 3, 3, 3, 2]
    assert 1 <= len({row[1] for row in rows}) <= 5
    assert "14² = 196" in output


def test_monte_carlo_draws_the_same_bits_in_every_layout() -> None:
    output = run("monte_carlo_pi.py", "--tasks", 23, "--darts", 20_000)
    assert output.count("the same bits") == 8
    found = re.search(r"π ≈ (3\.\d+)", output)
    assert found is not None
    assert abs(float(found[1]) - 3.14159) < 0.02


def test_code_census_counts_a_known_project(project: Path) -> None:
    output = run("code_census.py", "--roots", project, "--no-chart", "--repeat", 2, "--workers", 2)
    rows = {line.split("  ")[0]: line.split() for line in output.splitlines() if "  " in line}
    assert rows["oars"][1:5] == ["3", "1", "0", "3"]  # files, functions, classes, imports
    assert rows["hull"][1:5] == ["1", "1", "1", "0"]
    assert "pull (2 lines)" in output
    assert rows["total"][1:5] == ["5", "2", "1", "3"]
    assert "1 files are no valid Python" in output
    for way in ("plain loop", "multiprocessing.Pool", "bireme.Pool"):
        assert re.search(rf"^{re.escape(way)} +\d+\.\d\d +\d+\.\d\dx$", output, re.MULTILINE)


def test_code_census_draws_its_chart(project: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("the chart needs matplotlib")
    chart = tmp_path / "new folder" / "census.png"
    run("code_census.py", "--roots", project, "--chart", chart)
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert chart.stat().st_size > 20_000


def test_ten_calls_rows_are_valid_or_say_why() -> None:
    output = run(
        "ten_calls.py", "--size", 100_000, "--repeat", 1, "--workers", 2,
        "--skip", "IPython Parallel", "Ray",
    )  # fmt: skip
    for system in ("serial", "multiprocessing.Pool", "bireme.Pool"):
        lines = [line for line in output.splitlines() if line.startswith(f"{system} ")]
        assert len(lines) == 2, output
        assert all("wrong results" not in line and "Error" not in line for line in lines), output
    assert "expected 3.194528049" in output
