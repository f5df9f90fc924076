"""Seeds: each item has its own streams, whatever runs it."""

from __future__ import annotations

import functools
import random

import pytest

from tests.integration import tasks
from tests.support.waiting import GENEROUS

START_METHODS = ("template", "fork")  # all four with --every-start-method

numpy = pytest.importorskip("numpy")


@pytest.fixture
def draw(make_pool):
    """Give a function that draws numbers for 20 items with some layout of workers and chunks."""

    def draw(workers=2, chunksize=None, seed=7, task=tasks.draw):
        pool = make_pool(workers)
        return pool.map(task, range(20), chunksize, seed=seed)

    return draw


def test_equal_bits_for_any_layout(draw):
    reference = draw(1, 1)
    assert len(set(reference)) == 20, "every item has its own stream"
    for workers, chunksize in [(1, 7), (1, None), (3, 1), (3, 4), (2, 100)]:
        assert draw(workers, chunksize) == reference
    assert draw(seed=8) != reference


def test_equal_bits_for_every_kind_of_call(make_pool):
    pool = make_pool(2)
    reference = pool.map(tasks.draw, range(10), seed=5)
    assert list(pool.imap(tasks.draw, range(10), seed=5)) == reference
    assert list(pool.imap(tasks.draw, iter(range(10)), 3, seed=5)) == reference
    assert sorted(pool.imap_unordered(tasks.draw, range(10), seed=5)) == sorted(reference)
    assert pool.starmap(tasks.draw, [(i,) for i in range(10)], seed=5) == reference
    assert pool.map_async(tasks.draw, range(10), seed=5).get(GENEROUS) == reference
    assert pool.options(seed=5).map(tasks.draw, range(10)) == reference


def test_a_seeded_pool_numbers_its_submissions(make_pool):
    def draws():
        pool = make_pool(2, seed=11)
        results = [pool.apply_async(tasks.draw, (i,)) for i in range(10)]
        return [result.get(GENEROUS) for result in results]

    first = draws()
    assert draws() == first
    assert len(set(first)) == 10


_drawn: dict[str, list[tuple[float, float]]] = {}


def test_equal_bits_for_every_start_method(start_method, make_pool):
    """Compares with whatever the start methods before this one have drawn."""
    _drawn[start_method] = make_pool(2).map(tasks.draw, range(5), seed=3)
    assert len({tuple(values) for values in _drawn.values()}) == 1


def test_the_item_decides_not_what_ran_before(make_pool):
    """A task that draws more or less does not shift its neighbours' numbers."""
    pool = make_pool(1)
    short = pool.map(functools.partial(tasks.draw_several, count=1), range(10), seed=2)
    long = pool.map(functools.partial(tasks.draw_several, count=5), range(10), seed=2)
    assert [values[0] for values in long] == [values[0] for values in short]


def test_rng_is_a_generator_of_the_item(make_pool):
    pool = make_pool(2)
    values = pool.map(tasks.draw_from_rng, range(10), seed=1)
    assert len(set(values)) == 10
    assert pool.map(tasks.draw_from_rng, range(10), 3, seed=1) == values


def test_a_retry_keeps_its_numbers(make_pool, tmp_path):
    pool = make_pool(1)
    reference = pool.map(tasks.draw, range(6), seed=9)
    work = functools.partial(tasks.draw_after_death, str(tmp_path))
    assert pool.map(work, range(6), 1, seed=9, retries=1) == reference


def test_the_callers_generators_are_untouched(make_pool):
    pool = make_pool(2)
    random.seed(1)
    numpy.random.seed(1)
    states = random.getstate(), numpy.random.get_state()[1].tolist()
    pool.map(tasks.draw, range(10), seed=4)
    pool.map(tasks.draw, range(10))
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == states


def test_without_a_seed_workers_differ(make_pool, tmp_path):
    """Under fork, too, where they inherit one state."""
    random.seed(1)
    numpy.random.seed(1)
    pool = make_pool(2)
    meet = functools.partial(tasks.meet_and_draw, str(tmp_path))
    drawn = pool.map(meet, range(2), 1)
    assert len({pid for pid, _ in drawn}) == 2
    assert drawn[0][1][0] != drawn[1][1][0]
    assert drawn[0][1][1] != drawn[1][1][1]


def test_a_bad_seed_is_refused(shared_pool):
    with pytest.raises((TypeError, ValueError), match="seed"):
        shared_pool.map(tasks.draw, [1], seed="tuesday")
