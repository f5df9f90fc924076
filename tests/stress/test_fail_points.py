"""One worker in a few dies at each named step of the shared structures; see `fail_points.py`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.stress.fail_points import GROUPS
from tests.support.scripts import run_script

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "fail-points"

pytestmark = pytest.mark.skipif(
    not (BUILD / "bireme").is_dir(), reason="`make test` builds fail points"
)

RUN = """
import sys
from tests.stress.fail_points import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


# Workers forked by the caller know no template.
CASES = [(m, g) for m in ("template", "fork") for g in GROUPS if (m, g) != ("fork", "template")]


@pytest.mark.parametrize(("method", "group"), CASES)
def test_a_death_at_every_fail_point_loses_nothing(method, group):
    path = os.pathsep.join([str(BUILD), str(ROOT)])
    ended = run_script(RUN, args=[method, group], env={"PYTHONPATH": path}, timeout=110).check()
    assert " died, " in ended.stdout, ended.describe()
