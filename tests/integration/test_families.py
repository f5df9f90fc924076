"""Processes that tasks start: who ends them, who waits for them, and that nobody else is hit."""

from __future__ import annotations

import pytest

import bireme
from tests.integration import tasks
from tests.support.processes import is_alive
from tests.support.waiting import GENEROUS, poll

START_METHODS = ("template", "fork")  # all four with --every-start-method

LIMIT = 0.2


def _outcome(result):
    try:
        return result.get(GENEROUS)
    except bireme.TaskTimeoutError:
        return "late"


def test_the_end_of_a_stopped_task_hits_no_later_one(make_pool):
    """The worker begins the next task before the client has heard of the first one's end."""
    pool = make_pool(2)
    limited = pool.options(task_timeout=LIMIT)
    results = [limited.apply_async(tasks.run_or_hang, (i,)) for i in range(24)]
    assert [_outcome(result) for result in results] == ["late", 0] * 12


def test_the_end_of_a_stopped_task_hits_no_earlier_process(make_pool, tmp_path):
    """Neither what the initializer has started, nor what a task has just left running."""
    pool = make_pool(1, initializer=tasks.start_helper, initargs=(str(tmp_path),))
    limited = pool.options(task_timeout=LIMIT)
    for i in range(5):
        left = pool.apply_async(tasks.leave_running, (str(tmp_path / "left"),))
        late = limited.apply_async(tasks.start_child, (str(tmp_path / f"child{i}"),))
        assert _outcome(late) == "late"
        assert not is_alive(int((tmp_path / f"child{i}").read_text()))
        assert is_alive(left.get(GENEROUS))
        assert pool.apply(tasks.helper_ended) is None
    assert pool.statistics()["deaths"] == 0


@pytest.mark.parametrize("orphan", [False, True])
def test_descendants_of_a_stopped_task_are_gone_when_it_ends(make_pool, tmp_path, orphan):
    pool = make_pool(1)
    marker = tmp_path / "marker"
    result = pool.apply_async(tasks.start_and_hang, (str(marker), orphan))
    assert poll(lambda: marker.exists() and marker.read_text())
    assert is_alive(int(marker.read_text()))
    assert result.cancel(running=True)
    with pytest.raises(bireme.CancelledError):
        result.get(GENEROUS)
    assert not is_alive(int(marker.read_text()))
    assert pool.apply(tasks.square, (3,)) == 9
