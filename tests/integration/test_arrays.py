"""Arrays as arguments and results: right, writable, private, and never recycled under a view."""

from __future__ import annotations

import functools
import gc
import time
import weakref
from pathlib import Path

import pytest

import bireme
from tests.integration import tasks
from tests.support.waiting import GENEROUS, poll

START_METHODS = ("template", "fork")  # all four with --every-start-method

numpy = pytest.importorskip("numpy")

SIZES = [0, 1, 7, 1000, 8_192, 70_000, 1_000_003]


def _same(a, b) -> bool:
    return (
        type(a) is type(b)
        and a.dtype == b.dtype
        and a.shape == b.shape
        and numpy.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    )


def _arrays():
    grid = numpy.arange(600_000, dtype=float).reshape(600, 1000)
    structured = numpy.zeros(50_000, dtype=[("x", "<f8"), ("n", "<i4"), ("s", "S5")])
    structured["x"], structured["s"] = numpy.arange(50_000), b"abc"
    readonly = numpy.arange(100_000)
    readonly.flags.writeable = False
    return {
        "c": grid,
        "fortran": numpy.asfortranarray(grid),
        "transposed": grid.T,
        "strided": grid[::3, 1::2],
        "reversed": grid[::-1, ::-1],
        "broadcast": numpy.broadcast_to(numpy.arange(1000.0), (50, 1000)),
        "zero_d": numpy.array(3.5),
        "empty": numpy.empty((0, 5)),
        "empty_2": numpy.empty((5, 0, 3), dtype=numpy.int16),
        "bool": grid % 2 == 0,
        "complex": grid[:10] * 1j,
        "bytes": numpy.full(300_000, 7, dtype=numpy.uint8),
        "half": grid[:20].astype(numpy.float16),
        "big_endian": grid.astype(">f8"),
        "structured": structured,
        "readonly": readonly,
        "datetime": numpy.arange("2020-01", "2030-01", dtype="datetime64[D]"),
        "text": numpy.array(["a", "longer", ""] * 10_000),
        "objects": numpy.array([{"a": 1}, None, [1, 2]] * 100, dtype=object),
        "masked": numpy.ma.masked_array(numpy.arange(50_000), mask=numpy.arange(50_000) % 3 == 0),
        "scalar": numpy.float64(2.5),
    }


@pytest.mark.parametrize("name", list(_arrays()))
def test_every_kind_comes_back_equal(shared_pool, name):
    array = _arrays()[name]
    copy = array.copy()
    for result in (
        shared_pool.apply(tasks.identity, (array,)),
        shared_pool.map(tasks.identity, [array])[0],
    ):
        if name == "scalar":
            assert type(result) is numpy.float64
            assert result == array
            continue
        assert _same(result, array)
        assert result.flags.f_contiguous == array.flags.f_contiguous or name in {
            "strided",
            "reversed",
            "broadcast",
        }
    assert shared_pool.apply(tasks.kind, (array,)) == type(array).__name__
    assert numpy.all(array == copy)


@pytest.mark.parametrize("size", SIZES)
def test_arguments_are_writable_and_private(shared_pool, size):
    array = numpy.arange(size, dtype=float)
    total = shared_pool.apply(tasks.write_and_sum, (array,))
    assert total == 2.0 * size
    assert numpy.array_equal(array, numpy.arange(size, dtype=float)), "the caller's is unchanged"
    results = [shared_pool.apply_async(tasks.write_and_sum, (array,)) for _ in range(6)]
    assert [result.get(GENEROUS) for result in results] == [2.0 * size] * 6
    assert shared_pool.map(tasks.write_and_sum, [array] * 6, 1) == [2.0 * size] * 6


@pytest.mark.parametrize("size", SIZES)
def test_results_are_writable_and_private(shared_pool, size):
    first, second = (shared_pool.apply(tasks.keep_and_return, (size,)) for _ in range(2))
    assert first.flags.writeable
    first[:] = -1
    for _ in range(4):  # the worker's own array, whichever of the two is asked
        assert shared_pool.apply(tasks.kept_is_intact) is True
    assert numpy.array_equal(second, numpy.arange(size, dtype=float))


def test_a_change_by_the_worker_after_its_return_is_not_seen(make_pool):
    """The worker keeps a reference and writes on: so its result must have been copied."""
    pool = make_pool(1)
    result = pool.apply(tasks.keep_and_return, (500_000,))
    pool.apply(tasks.overwrite_kept)
    assert numpy.array_equal(result, numpy.arange(500_000, dtype=float))


def test_a_result_that_is_a_view_of_a_kept_array(make_pool):
    pool = make_pool(1)
    result = pool.apply(tasks.return_view_of_kept, (500_000,))
    pool.apply(tasks.overwrite_kept)
    assert numpy.array_equal(result, numpy.arange(500_000, dtype=float)[::2])


def test_an_argument_kept_by_the_worker_is_never_recycled(make_pool):
    """A task keeps its argument in a global while 100 other arrays pass through the arena."""
    pool = make_pool(1)
    kept = numpy.arange(300_000, dtype=float)
    assert pool.apply(tasks.keep, (kept,)) is None
    for i in range(100):
        assert pool.apply(tasks.total, (numpy.full(300_000, i, dtype=float),)) == 300_000.0 * i
    assert numpy.array_equal(pool.apply(tasks.get_kept), kept)


def test_a_result_kept_by_the_caller_is_never_recycled(make_pool):
    pool = make_pool(2)
    kept = [pool.apply(tasks.full, (200_000, i)) for i in range(10)]
    views = [array[1000::7] for array in kept[:5]]
    del kept[:5]
    for i in range(100):
        assert pool.apply(tasks.full, (200_000, -i))[0] == -i
    assert all((view == i).all() for i, view in enumerate(views))
    assert all((array == i + 5).all() for i, array in enumerate(kept))


def test_a_result_outlives_its_worker_and_its_pool(make_pool):
    pool = make_pool(1)
    result = pool.apply(tasks.full, (300_000, 7))
    with pytest.raises(bireme.WorkerDiedError):
        pool.apply(tasks.die, ("SIGKILL",))
    assert (result == 7).all()
    later = [pool.apply(tasks.full, (300_000, i)) for i in range(20)]
    pool.terminate()
    pool.join()
    del pool
    gc.collect()
    assert (result == 7).all()
    result += 1
    assert (result == 8).all()
    assert all((array == i).all() for i, array in enumerate(later))


def test_results_are_freed_with_their_last_view(make_pool):
    """50 x 40 MB pass through; what is still held must not grow with them."""
    pool = make_pool(1)
    sizes = []
    for i in range(50):
        result = pool.apply(tasks.full, (5_000_000, i))
        assert result[-1] == i
        del result
        sizes.append(_shared_bytes())
    assert max(sizes[5:]) <= 5 * 40_000_000, sizes


def _shared_bytes() -> int:
    """Return the resident shared memory of this process in bytes."""
    with open("/proc/self/smaps_rollup") as file:
        fields = dict(line.split(":", 1) for line in file if "kB" in line)
    return int(fields["Pss_Shmem"].split()[0]) * 1024


def test_arguments_are_freed_with_their_task(make_pool):
    pool = make_pool(1)
    array = numpy.zeros(5_000_000)
    sizes = []
    for _ in range(50):
        assert pool.apply(tasks.write_and_sum, (array,)) == 10_000_000.0
        sizes.append(_shared_bytes())
    assert max(sizes[5:]) <= 5 * 40_000_000, sizes


def test_a_kept_result_may_be_sent_again(shared_pool):
    array = shared_pool.apply(tasks.full, (100_000, 1))
    for _ in range(5):
        array = shared_pool.apply(tasks.plus_one, (array,))
    assert (array == 6).all()


def test_many_arrays_in_one_value(shared_pool):
    value = {"a": [numpy.arange(50_000) + i for i in range(10)], "b": (numpy.zeros(5), "text")}
    result = shared_pool.apply(tasks.identity, (value,))
    assert all(_same(x, y) for x, y in zip(result["a"], value["a"], strict=True))
    assert result["b"][1] == "text"


def test_one_array_twice_in_one_value_stays_one(shared_pool):
    array = numpy.arange(100_000)
    first, second = shared_pool.apply(tasks.identity, ((array, array),))
    assert first is second


def test_other_buffers(shared_pool):
    import array as standard_array

    values = [bytearray(b"x" * 500_000), b"y" * 500_000, standard_array.array("d", range(50_000))]
    for value in values:
        result = shared_pool.apply(tasks.identity, (value,))
        assert type(result) is type(value)
        assert result == value


def test_slices_of_an_array_as_items(shared_pool):
    """Rows of a matrix, which travel as a description or by value, nobody can tell."""
    matrix = numpy.arange(200_000, dtype=float).reshape(200, 1000)
    assert shared_pool.map(numpy.sum, matrix) == [row.sum() for row in matrix]
    vector = numpy.arange(1000)
    results = shared_pool.map(tasks.identity, vector)
    assert results == list(vector)
    assert {type(x) for x in results} == {type(vector[0])}


# Functions ---------------------------------------------------------------------------------


def _closure():
    array = numpy.full(2**18, 3.0)
    return (lambda index: array[index]), weakref.ref(array)


def _recursive():
    array = numpy.full(2**18, 3.0)

    def add_up(index):
        return array[index] + (add_up(index - 1) if index else 0)

    return add_up, weakref.ref(array)


def _partial():
    array = numpy.full(2**18, 3.0)
    return functools.partial(numpy.take, array), weakref.ref(array)


def _large_mappings(pool) -> int:
    """Count mappings of shared memory of 2 MB and more in the workers."""
    count = 0
    for pid in pool._client.worker_pids():
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            count += "bireme-arena" in line and end - begin >= 2**21
    return count


@pytest.mark.parametrize("make", [_closure, _recursive, _partial])
def test_what_a_function_carried_is_freed_with_it(make_pool, make):
    """In the caller at once, in the workers as soon as they hear of it, also while all sleep."""
    pool = make_pool()
    before = _large_mappings(pool)
    function, array = make()
    pool.map(function, range(100), chunksize=1)
    assert _large_mappings(pool) > before
    time.sleep(0.2)
    del function
    gc.collect()
    assert array() is None
    poll(lambda: _large_mappings(pool) == before)
    assert _large_mappings(pool) == before
    # Its pages stay warm for some seconds.
    assert poll(lambda: pool.statistics()["arena_bytes"] < 2**21)


def test_many_functions_with_large_values_take_no_more_memory_than_one(make_pool):
    """Each travels, is used and is dropped: 200 MB in all."""
    pool = make_pool()
    before = _large_mappings(pool)
    for number in range(100):
        array = numpy.full(2**18, float(number))
        assert pool.map(lambda index, array=array: array[index], range(4)) == [number] * 4
        del array
        assert pool.statistics()["arena_bytes"] < 20 * 2**21
    assert poll(lambda: _large_mappings(pool) == before)


def test_a_function_is_sent_again_if_the_worker_has_forgotten_it(make_pool):
    """A worker keeps some hundred functions, its client fewer; both give up the oldest."""
    pool = make_pool(1)
    functions = [eval(f"lambda: {number}") for number in range(300)]
    for _ in range(2):
        results = [pool.apply_async(function) for function in functions]
        assert [result.get(GENEROUS) for result in results] == list(range(300))


def test_an_object_without_weak_references_is_a_function_too(make_pool):
    class Adder:
        __slots__ = ("array",)

        def __init__(self):
            self.array = numpy.full(2**18, 3.0)

        def __call__(self, index):
            return self.array[index] + index

    pool = make_pool()
    adder = Adder()
    array = weakref.ref(adder.array)
    for _ in range(2):
        assert pool.map(adder, range(3)) == [3.0, 4.0, 5.0]
    del adder
    gc.collect()
    assert array() is None


def _inodes(pool) -> set[str]:
    """Give the files behind the workers' mappings of shared memory of 2 MB and more."""
    found = set()
    for pid in pool._client.worker_pids():
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            if "bireme-arena" in line and end - begin >= 2**21:
                found.add(line.split()[4])
    return found


def test_pages_of_one_function_carry_the_next(make_pool):
    """Fresh pages cost many times what a copy into used ones does."""
    pool = make_pool(1)
    before = _inodes(pool)
    files = []
    for number in range(5):
        array = numpy.full(2**18, float(number))
        function = functools.partial(numpy.take, array)
        assert pool.map(function, [0, 1, 2**18 - 1]) == [number] * 3
        files += _inodes(pool) - before
        del array, function
        poll(lambda: _inodes(pool) <= before)
    assert len(files) == 5
    assert len(set(files)) < 5, files


def test_pages_that_a_worker_still_sees_carry_nothing_else(make_pool):
    pool = make_pool(1)
    for number in range(8):
        array = numpy.full(2**18, float(number))
        assert pool.apply(functools.partial(tasks.keep_first, array)) == 0.0
        assert pool.apply(functools.partial(tasks.last_of, array)) == number
        del array
        time.sleep(0.05)


def test_pages_that_a_forked_child_still_sees_carry_nothing_else(make_pool, tmp_path):
    """The child looks when its parent has long forgotten the array."""
    pool = make_pool(1)
    go, seen = tmp_path / "go", tmp_path / "seen"
    array = numpy.full(2**18, 1.0)
    pool.apply(functools.partial(tasks.fork_and_sum, array), (str(go), str(seen)))
    del array
    for number in range(2, 8):
        array = numpy.full(2**18, float(number))
        assert pool.apply(functools.partial(tasks.last_of, array)) == number
        del array
        time.sleep(0.05)
    go.touch()
    assert poll(seen.exists)
    assert poll(seen.read_text) == str(2**18 * 1.0)


def test_pages_of_a_killed_worker_carry_nothing_else(make_pool):
    pool = make_pool()
    for number in range(6):
        array = numpy.full(2**18, float(number))
        function = functools.partial(tasks.last_of, array)
        results = [pool.apply_async(function) for _ in range(20)]
        doomed = pool.apply_async(tasks.die, ("SIGKILL",))
        assert [result.get(GENEROUS) for result in results] == [number] * 20
        with pytest.raises(bireme.WorkerDiedError):
            doomed.get(GENEROUS)
        del array, function, results
