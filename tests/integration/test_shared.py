"""`bireme.shared`: results that are made where the caller reads them."""

from __future__ import annotations

import gc

import pytest

import bireme
from tests.integration import tasks

np = pytest.importorskip("numpy")

MILLION = 1_000_000


def _made_by(pool: bireme.Pool, how: str) -> object:
    return pool.apply(tasks.make_shared, (how, MILLION))


@pytest.mark.parametrize("how", ["whole", "part", "reshaped"])
def test_a_shared_array_comes_back_whole(pool, how):
    for _ in range(5):
        array = _made_by(pool, how)
        expected = np.arange(MILLION, dtype="i8")[MILLION // 2 if how == "part" else 0 :]
        assert np.array_equal(array.ravel(), expected)
        array[...] = 7  # it is the caller's now
        assert _made_by(pool, how).ravel()[0] == expected[0]


def test_it_crosses_without_a_copy(make_pool):
    """The worker's pages are the caller's: what the worker wrote has the same memory behind it."""
    pool = make_pool(1)
    inode, offset = pool.apply(tasks.where_shared_lies, (MILLION,))
    array = pool.apply(tasks.make_shared, ("whole", MILLION))
    ours = tasks.mapping_of(array)
    assert ours[0] == inode
    assert ours[1] == offset, "the freed block was used again, and filled in place"


@pytest.mark.parametrize("how", ["kept", "kept_view", "kept_memoryview"])
def test_what_the_worker_still_sees_is_copied(make_pool, how):
    """A task that keeps its array may change it: the caller's result must not follow."""
    pool = make_pool(1)
    array = _made_by(pool, how)
    pool.apply(tasks.spoil_kept)
    assert np.array_equal(array, np.arange(MILLION, dtype="i8"))
    del array
    gc.collect()
    assert pool.apply(tasks.read_kept) == -1, "what the worker kept is still its own"


def test_memory_is_used_again(make_pool):
    pool = make_pool(1)
    for _ in range(3):
        _made_by(pool, "whole")
    before = pool.statistics()["arena_bytes"]
    for _ in range(20):
        _made_by(pool, "whole")
        pool.apply(tasks.make_shared, ("dropped", MILLION))
    assert pool.statistics()["arena_bytes"] == before


def test_views_outlive_worker_and_pool(make_pool):
    pool = make_pool(1)
    array = _made_by(pool, "whole")
    pool.terminate()
    pool.join()
    assert array.sum() == MILLION * (MILLION - 1) // 2


def test_several_in_one_result_are_copied(make_pool):
    pool = make_pool(1)
    first, second = pool.apply(tasks.make_two_shared, (MILLION,))
    assert (first[0], second[-1]) == (1, 2)
    assert pool.map(tasks.make_shared_sum, [MILLION] * 4, 2) == [MILLION] * 4


def test_outside_of_a_task_it_is_an_ordinary_array():
    array = bireme.shared.empty((3, 4), "f4")
    assert (array.shape, array.dtype, array.flags.writeable) == ((3, 4), np.dtype("f4"), True)
    with pytest.raises(ValueError, match="Python objects"):
        bireme.shared.empty(3, object)
