"""One worker in a few dies at each named step of the shared structures; see `fail_points.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "fail-points"

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (BUILD / "bireme").is_dir(), reason="`make test` builds fail points"),
]


@pytest.mark.parametrize("method", ["template", "fork"])
def test_a_death_at_every_fail_point_loses_nothing(method):
    path = os.pathsep.join([str(BUILD), str(ROOT)])
    ended = subprocess.run(
        [sys.executable, "-m", "tests.stress.fail_points", method],
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr[-6000:]}"
