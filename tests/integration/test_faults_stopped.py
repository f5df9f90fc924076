"""The template is stopped while workers die: how they ended is told late, everything else in time."""

from __future__ import annotations

import signal

import pytest

import bireme
from tests.integration import tasks
from tests.support.processes import is_alive
from tests.support.waiting import GENEROUS, poll

START_METHODS = ("template",)


def test_a_stopped_template_is_roused_to_tell_of_a_death(make_pool):
    pool = make_pool(1)
    assert poll(lambda: len(pool.worker_pids()) == 1)
    template = pool._client.template_pid()
    result = pool.apply_async(tasks.stop_others_and_die, (template,))
    with pytest.raises(bireme.WorkerDiedError) as caught:
        result.get(GENEROUS)
    assert caught.value.signal == signal.SIGKILL
    assert pool.map(tasks.square, range(10)) == [x * x for x in range(10)]


def test_time_limits_hold_while_deaths_are_still_to_be_told(make_pool):
    """A machine that is busy may turn the order around, but not each time."""

    def ends_first() -> bool:
        pool = make_pool(3)
        assert poll(lambda: len(pool.worker_pids()) == 3)
        pids = pool.worker_pids()
        template = pool._client.template_pid()
        dying = pool.apply_async(tasks.stop_others_and_die, (template,))
        assert poll(lambda: any(not is_alive(pid) for pid in pids))
        late = pool.options(task_timeout=0.05).apply_async(tasks.slow, (0, 60))
        with pytest.raises(bireme.TaskTimeoutError):
            late.get(GENEROUS)
        first = not dying.ready()
        with pytest.raises(bireme.WorkerDiedError):
            dying.get(GENEROUS)
        return first

    assert any(ends_first() for _ in range(4))
