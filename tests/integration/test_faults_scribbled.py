"""A task writes over words that its pool's processes share: it may fail, the pool goes on."""

from __future__ import annotations

import pytest

import bireme
from tests.integration import tasks
from tests.support.waiting import GENEROUS

START_METHODS = ("template",)


def _goes_on(pool) -> bool:
    return pool.map(tasks.square, range(50), 1) == [x * x for x in range(50)]


def test_a_spinner_that_never_ends(make_pool):
    """Each task finds nobody awake but the spinner, who does not come: a tick wakes another worker."""
    pool = make_pool(1)
    for _ in range(25):
        assert pool.apply_async(tasks.take_spinner_for_ever).get(GENEROUS) is None
    assert _goes_on(pool)


def test_a_sleeper_that_does_not_exist(make_pool):
    pool = make_pool(2)
    for _ in range(5):
        pool.apply_async(tasks.announce_nobody).get(GENEROUS)
        assert _goes_on(pool)


def test_a_result_of_a_worker_that_does_not_exist(make_pool):
    pool = make_pool(1)
    result = pool.apply_async(tasks.change_own_word, kwds={"worker": 60_000})
    for _ in range(2):
        with pytest.raises(bireme.BiremeError, match="shared memory"):
            result.get(GENEROUS)
    assert _goes_on(pool)


@pytest.mark.parametrize("state", [0, 6, 99])
def test_a_slot_in_an_impossible_state(make_pool, state):
    """Free or being collected while its task runs, or none of ours."""
    pool = make_pool(1)
    result = pool.apply_async(tasks.change_own_word, kwds={"state": state})
    with pytest.raises(bireme.BiremeError):
        result.get(GENEROUS)
    assert _goes_on(pool)
