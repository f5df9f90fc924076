"""A few seconds of chaos in the normal suite; `make soak` runs far more of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import bireme
from tests.stress.chaos import run_chaos
from tests.support.waiting import GENEROUS

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("warm_template")]


@pytest.mark.parametrize("kind", ["apply_async", "imap", "bytes"])
def test_three_thousand_tasks_under_fire(kind):
    report = run_chaos(3000, kind=kind, seed=1)
    assert report.deaths >= 3, str(report)


def test_with_retries_nothing_is_lost():
    report = run_chaos(1500, retries=50, seed=2)
    assert report.died == 0, str(report)
    assert report.deaths >= 3, str(report)


def end_worker_until(path: str, count: int) -> int:
    tries = Path(path)
    tries.write_text(tries.read_text() + "x")
    if len(tries.read_text()) <= count:
        os.kill(os.getpid(), signal.SIGKILL)
    return len(tries.read_text())


def test_a_task_that_kills_worker_after_worker_breaks_no_pool(tmp_path):
    """Their deaths are the task's: they say nothing about how workers are born."""
    tries = tmp_path / "tries"
    tries.write_text("")
    with bireme.Pool(1) as pool:
        result = pool.options(retries=30).apply_async(end_worker_until, (str(tries), 25))
        assert result.get(GENEROUS) == 26
        assert pool.apply(abs, (-1,)) == 1
    pool.join()


def test_every_start_method(start_method):
    interval = 0.02 if start_method in ("template", "fork") else 0.4
    report = run_chaos(500, interval=interval, start_method=start_method, seed=3)
    assert report.tasks == 500
