"""`bireme.Pool` has what `multiprocessing.Pool` has: maps, chunks, errors, life.

Asynchronous results are in `test_pool_async.py`, lazy iterators in `test_pool_imap.py`.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import multiprocessing.pool
import os
import pickle
from collections import Counter

import pytest

import bireme
from tests.integration import tasks
from tests.support.scripts import WITH_TASKS
from tests.support.waiting import GENEROUS


def test_signatures_agree_with_the_standard_pool():
    for name in [
        "apply",
        "apply_async",
        "map",
        "map_async",
        "imap",
        "imap_unordered",
        "starmap",
        "starmap_async",
        "close",
        "terminate",
        "join",
    ]:
        standard = inspect.signature(getattr(multiprocessing.pool.Pool, name)).parameters
        ours = inspect.signature(getattr(bireme.Pool, name)).parameters
        shared = [
            (p.name, p.kind, p.default) for p in itertools.islice(ours.values(), len(standard))
        ]
        assert shared == [(p.name, p.kind, p.default) for p in standard.values()], name
    standard = list(inspect.signature(multiprocessing.pool.Pool).parameters)
    assert list(inspect.signature(bireme.Pool).parameters)[: len(standard)] == standard


def test_apply(shared_pool):
    assert shared_pool.apply(tasks.square, (5,)) == 25
    assert shared_pool.apply(tasks.square, (), {"x": 3}) == 9
    assert shared_pool.apply(tasks.add, (1,), {"y": 2, "z": 3}) == 6
    assert shared_pool.apply(tasks.pid) != os.getpid()


@pytest.mark.parametrize("chunksize", [None, 1, 3, 10, 1000])
@pytest.mark.parametrize("length", [0, 1, 2, 97, 1000])
def test_map_gives_what_the_loop_gives(shared_pool, length, chunksize):
    numbers = [x * 7 % 1000 for x in range(length)]
    assert shared_pool.map(tasks.square, numbers, chunksize) == [x * x for x in numbers]


def test_map_takes_any_iterable(shared_pool):
    assert shared_pool.map(tasks.square, range(3, 100, 7)) == [x * x for x in range(3, 100, 7)]
    assert shared_pool.map(tasks.square, range(10, 0, -1)) == [x * x for x in range(10, 0, -1)]
    assert shared_pool.map(tasks.square, (x for x in range(50))) == [x * x for x in range(50)]
    assert shared_pool.map(tasks.identity, "héllo") == list("héllo")
    assert sorted(shared_pool.map(tasks.square, {1, 2, 3})) == [1, 4, 9]
    assert shared_pool.map(tasks.identity, {"a": 1, "b": 2}) == ["a", "b"]


@pytest.mark.parametrize(
    "values",
    [
        [0, 1, -1, 2**31, -(2**31), 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 2**64, 10**50],
        [True, False, True],
        [0, True, 1, False],
        [0.0, -0.0, float("inf"), float("-inf"), 5e-324, 1.7976931348623157e308],
        [1, 1.0, 2, 2.0],
        [None, "", b"", (), [], {}, "text", b"bytes" * 1000],
    ],
)
def test_values_keep_their_exact_type(shared_pool, values):
    """Lists of plain numbers may travel packed; nobody must be able to tell."""
    for chunksize in (None, 1, 2):
        results = shared_pool.map(tasks.identity, values * 30, chunksize)
        assert [(type(x), repr(x)) for x in results] == [(type(x), repr(x)) for x in values * 30]


def test_nan_keeps_its_sign_and_subclasses_their_class(shared_pool):
    result = shared_pool.map(tasks.identity, [float("nan"), -float("nan")] * 20)
    assert [str(x) for x in result] == ["nan"] * 40
    from enum import IntEnum
    from signal import Signals

    assert issubclass(Signals, IntEnum)
    assert shared_pool.map(tasks.kind, [Signals.SIGINT, 2, Signals.SIGTERM]) == [
        "Signals",
        "int",
        "Signals",
    ]
    assert shared_pool.map(tasks.identity, [Signals.SIGINT] * 3) == [Signals.SIGINT] * 3
    assert type(shared_pool.map(tasks.identity, [Signals.SIGINT] * 3)[1]) is Signals


def test_starmap(shared_pool):
    pairs = [(x, 2 * x) for x in range(100)]
    assert shared_pool.starmap(tasks.add, pairs) == [3 * x for x in range(100)]
    assert shared_pool.starmap(tasks.add, pairs, 20) == [3 * x for x in range(100)]
    assert shared_pool.starmap(tasks.add, ([x] for x in range(5))) == list(range(5))
    assert shared_pool.starmap(tasks.add, zip(range(5), range(5), strict=True)) == [0, 2, 4, 6, 8]
    with pytest.raises(TypeError):
        shared_pool.starmap(tasks.add, [1, 2])


def test_large_results_and_arguments(shared_pool):
    values = [bytes([i]) * (300_000 + i) for i in range(12)]
    assert shared_pool.map(tasks.identity, values, 1) == values
    assert shared_pool.map(len, values) == [len(v) for v in values]
    assert shared_pool.apply(tasks.identity, ("x" * 5_000_000,)) == "x" * 5_000_000


def test_five_agents_square_fourteen_numbers(make_pool, tmp_path):
    """Five workers and `chunksize=3`: five dispatches of 3, 3, 3, 3, 2, each on one worker."""
    pool = make_pool(5)
    seen = pool.map(tasks.pid_and_call, range(14), chunksize=3)
    assert [x for x, _, _ in seen] == list(range(14))
    chunks = [seen[i : i + 3] for i in range(0, 14, 3)]
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 3, 2]
    for chunk in chunks:
        assert len({pid for _, pid, _ in chunk}) == 1, "a chunk runs on one worker"
        calls = [call for _, _, call in chunk]
        assert calls == list(range(calls[0], calls[0] + len(calls))), "and nothing runs in between"
    assert len({pid for _, pid, _ in seen}) <= 5


def test_chunks_are_dispatched_apart(make_pool, tmp_path):
    """Each chunk's first item waits until all five have begun: so there are five, on five workers."""
    pool = make_pool(5)
    first_of_chunk = functools.partial(tasks.meet_at_chunk_starts, str(tmp_path), 3, 5)
    seen = pool.map(first_of_chunk, range(14), chunksize=3)
    assert len({pid for _, pid in seen}) == 5
    assert sorted(Counter(pid for _, pid in seen).values()) == [2, 3, 3, 3, 3]


def test_a_recycled_worker_has_done_exactly_its_chunks(make_pool):
    """`maxtasksperchild` counts chunks, which shows each dispatch as a process of its own."""
    pool = make_pool(2, maxtasksperchild=1)
    seen = pool.map(tasks.pid_and_call, range(14), chunksize=3)
    by_worker = Counter(pid for _, pid, _ in seen)
    assert sorted(by_worker.values()) == [2, 3, 3, 3, 3]
    assert [call for _, _, call in seen] == [1, 2, 3] * 4 + [1, 2]


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_recycling_loses_nothing(start_method, make_pool, limit):
    pool = make_pool(2, maxtasksperchild=limit)
    count = (
        30 * limit if start_method in ("template", "fork") else 8 * limit
    )  # births are slow there
    results = [pool.apply_async(tasks.pid_and_call, (i,)) for i in range(count)]
    seen = [result.get(60) for result in results]
    assert [x for x, _, _ in seen] == list(range(count))
    assert max(Counter(pid for _, pid, _ in seen).values()) <= limit
    assert len(pool.worker_pids()) <= 2


def test_both_workers_work(shared_pool, tmp_path):
    seen = shared_pool.map(
        functools.partial(tasks.meet, str(tmp_path), party=2), range(2), chunksize=1
    )
    assert len({pid for _, pid in seen}) == 2
    assert set(tasks.workers_of(shared_pool)) == {pid for _, pid in seen}


def test_an_error_arrives_with_its_remote_traceback(shared_pool):
    with pytest.raises(ValueError, match="failed on") as caught:
        shared_pool.apply(tasks.fail, (3,))
    assert caught.value.args == ("failed on", 3)
    cause = caught.value.__cause__
    assert type(cause).__name__ == "RemoteTraceback"
    assert 'raise ValueError("failed on", x)' in str(cause)
    assert "basic.py" in str(cause)


def test_the_traceback_shows_the_whole_chain(shared_pool):
    with pytest.raises(RuntimeError, match="outer") as caught:
        shared_pool.apply(tasks.raise_chained)
    assert "KeyError: 'missing'" in str(caught.value.__cause__)


def test_map_raises_the_error_of_the_lowest_index(make_pool, tmp_path):
    """And only after every other item had its turn, as the standard pool does."""
    pool = make_pool(2)
    run = functools.partial(tasks.fail_last_at_lowest, str(tmp_path))
    with pytest.raises(ValueError, match="failed on") as caught:
        pool.map(run, range(30), chunksize=1)
    assert caught.value.args == ("failed on", 5)
    assert sorted(os.listdir(tmp_path), key=int) == [str(x) for x in range(30)]
    assert all(tasks.runs(tmp_path, x) == 1 for x in range(30))


@pytest.mark.parametrize("items", [range(20), list(range(20)), [str(x) for x in range(20)]])
def test_a_task_that_raises_stop_iteration_ends_no_others(shared_pool, tmp_path, items):
    """The standard pool takes it for the end of the chunk, and gives fewer results."""
    function = functools.partial(tasks.stop_on_odd, str(tmp_path))
    with pytest.raises(StopIteration):
        shared_pool.map(function, items, chunksize=10)
    assert len(list(tmp_path.iterdir())) == 20
    assert list(shared_pool.imap(functools.partial(tasks.fail_on, bad=-1), range(20), 7)) == list(
        range(20)
    )


@pytest.mark.parametrize("chunksize", [1.5, "a"])
def test_a_chunksize_that_is_no_number_of_items(shared_pool, chunksize):
    with pytest.raises(TypeError, match="chunksize must be an int of at least 1, got"):
        shared_pool.map(tasks.square, [1], chunksize)


def test_two_start_methods():
    with pytest.raises(ValueError, match="context asks for start method 'fork'"):
        bireme.Pool(1, context="fork", start_method="spawn")


def test_an_error_of_the_iterable_is_raised_as_it_is(shared_pool):
    def numbers():
        yield 1
        yield 2
        raise KeyError("the iterable failed")

    with pytest.raises(KeyError, match="the iterable failed") as caught:
        shared_pool.map(tasks.square, numbers())
    assert caught.value.__cause__ is None
    assert shared_pool.map(tasks.square, [3]) == [9]


@pytest.mark.parametrize("bad", [0, -1])
def test_wrong_worker_counts_are_refused(start_method, bad):
    with pytest.raises(ValueError, match="processes"):
        bireme.Pool(bad, start_method=start_method)


@pytest.mark.parametrize("bad", [0, -1, 0.5, "12"])
def test_wrong_lifetimes_are_refused(start_method, bad):
    with pytest.raises(ValueError, match="maxtasksperchild"):
        bireme.Pool(1, maxtasksperchild=bad, start_method=start_method)


@pytest.mark.usefixtures("warm_template")
def test_wrong_options_are_refused():
    with pytest.raises(TypeError, match="initializer"):
        bireme.Pool(1, initializer=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="start_method"):
        bireme.Pool(1, start_method="telepathy")


@pytest.mark.parametrize("bad", [0, -3])
def test_wrong_chunk_sizes_are_refused(shared_pool, bad):
    for call in (shared_pool.imap, shared_pool.imap_unordered):
        with pytest.raises(ValueError, match=r"[Cc]hunk"):
            call(tasks.square, [1, 2], bad)


@pytest.mark.usefixtures("warm_template")
def test_the_default_count_is_the_usable_cpus():
    with bireme.Pool() as pool:
        assert pool.processes == bireme.cpu_count() == len(os.sched_getaffinity(0))
    pool.join()


def test_the_default_count_honours_affinity(run_script):
    run_script(
        """
        import os
        os.sched_setaffinity(0, {next(iter(os.sched_getaffinity(0)))})
        import bireme
        from tests.integration import tasks
        assert bireme.cpu_count() == 1
        with bireme.Pool() as pool:
            assert pool.processes == len(tasks.workers_of(pool)) == 1
        """,
        env=WITH_TASKS,
    ).check()


def test_workers_are_set_up_once_each(make_pool, tmp_path):
    pool = make_pool(2, initializer=tasks.init_counts, initargs=(str(tmp_path),))
    pool.map(functools.partial(tasks.slow, seconds=0.01), range(40), chunksize=1)
    pids = tasks.workers_of(pool)
    assert {p.name for p in tmp_path.iterdir()} == {str(pid) for pid in pids}
    assert [tasks.runs(tmp_path, pid) for pid in pids] == [1, 1]


def test_the_initializer_sets_what_tasks_read(make_pool):
    pool = make_pool(2, initializer=tasks.set_setting, initargs=({"deep": [1, 2]},))
    assert pool.map(tasks.get_setting, range(8), chunksize=1) == [{"deep": [1, 2]}] * 8


def test_a_standard_context_chooses_the_start_method(start_method):
    if start_method == "template":
        pytest.skip("the standard library has no such method")
    context = multiprocessing.get_context(start_method)
    with bireme.Pool(1, None, (), None, context) as pool:
        assert pool.apply(tasks.square, (4,)) == 16
    pool.join()


def test_a_pool_cannot_travel(shared_pool):
    with pytest.raises(NotImplementedError, match="pool"):
        pickle.dumps(shared_pool)
    with pytest.raises((NotImplementedError, bireme.PicklingError)):
        shared_pool.apply(tasks.identity, (shared_pool,))
    assert shared_pool.apply(tasks.square, (2,)) == 4


def test_names_pids_statistics(make_pool):
    pool = make_pool(2, name="census")
    pool.map(tasks.square, range(10))
    assert pool.name == "census"
    assert pool.processes == 2
    assert len(set(tasks.workers_of(pool))) == 2
    assert "census" in repr(pool)
    statistics = pool.statistics()
    assert statistics
    assert all(isinstance(key, str) for key in statistics)


class _Loaded(list):
    """A list that makes its items when they are read."""

    def __iter__(self):
        return (f"loaded {item}" for item in super().__iter__())

    def __getitem__(self, index):
        raise TypeError("no slices")


def test_a_list_of_another_kind_is_iterated_over(shared_pool):
    loaded = _Loaded(["a", "b", "c"])
    expected = ["LOADED A", "LOADED B", "LOADED C"]
    assert shared_pool.map(str.upper, loaded) == expected
    assert shared_pool.map_async(str.upper, loaded, 1).get(GENEROUS) == expected
    assert list(shared_pool.imap(str.upper, loaded)) == expected


def test_no_initializer_needs_no_initargs():
    bireme.Pool(1, None, None).terminate()


def test_an_error_after_retries_names_the_function(shared_pool):
    with pytest.raises(bireme.TaskTimeoutError, match=r"(?<!partial of )tests\.\S+\.slow"):
        shared_pool.map(
            tasks.slow_hour, [1], 1, task_timeout=0.2, retries=1, retry_on=bireme.TaskTimeoutError
        )
