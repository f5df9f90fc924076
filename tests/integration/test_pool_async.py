"""Asynchronous results: waiting, callbacks, many threads."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import threading
import time
import weakref

import pytest

import bireme
from tests.integration import tasks
from tests.support.waiting import GENEROUS, poll

START_METHODS = ("template", "fork")  # all four with --every-start-method


def test_a_result_becomes_ready(shared_pool, tmp_path):
    gate = tmp_path / "gate"
    result = shared_pool.apply_async(tasks.wait_for_file, (str(gate), "done"))
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    result.wait(0.01)
    assert not result.ready()
    gate.touch()
    assert result.get(GENEROUS) == "done"
    assert result.ready()
    assert result.successful()
    assert result.get() == "done", "a result may be read twice"


def _is_in_its_own_value(pool):
    result = pool.apply_async(tasks.identity, ([],))
    result.get(GENEROUS).append(result)
    return result


def _is_in_a_value_that_held_nothing(pool):
    result = pool.apply_async(tasks.identity, ({"a": "x"},))
    result.get(GENEROUS)["handle"] = result
    return result


def _is_its_own_attribute(pool):
    result = pool.apply_async(tasks.square, (3,))
    result.me = result
    assert result.get(GENEROUS) == 9
    return result


def _is_written_into_its_dict(pool):
    result = pool.apply_async(tasks.square, (3,))
    vars(result)["me"] = result
    assert result.me is result
    return result


def _is_in_a_frame_of_its_error(pool):
    result = pool.apply_async(tasks.fail, (3,))
    try:
        result.get(GENEROUS)
    except ValueError as error:
        result.me = error
    return result


def _is_known_to_its_callback(pool):
    results = []
    results.append(pool.apply_async(tasks.square, (3,), callback=results.append))
    assert results[0].get(GENEROUS) == 9
    return results[0]


def _is_known_to_its_function(pool):
    result = None

    def function():
        return result is None

    pool.apply(function)
    result = pool.apply_async(function)
    return result


@pytest.mark.parametrize(
    "make",
    [
        _is_in_its_own_value,
        _is_in_a_value_that_held_nothing,
        _is_its_own_attribute,
        _is_written_into_its_dict,
        _is_in_a_frame_of_its_error,
        _is_known_to_its_callback,
        _is_known_to_its_function,
    ],
)
def test_a_result_in_a_cycle_is_collected(shared_pool, make):
    for warm in (tasks.identity, tasks.square, tasks.fail):  # to be known as a module's function
        shared_pool.apply_async(warm, (1,)).wait(GENEROUS)
    result = make(shared_pool)
    result.wait(GENEROUS)
    seen = weakref.ref(result)
    del result
    gc.collect()
    assert seen() is None


def test_attributes_of_a_result(shared_pool):
    result = shared_pool.apply_async(tasks.square, (3,))
    result.label = "nine"
    assert result.label == "nine"
    del result.label
    assert not hasattr(result, "label")
    with pytest.raises(AttributeError):
        del result.label


def test_results_are_not_made_by_hand():
    with pytest.raises(TypeError, match="made by the calls of a pool"):
        bireme.pool.AsyncResult()


def test_a_wait_that_ends_leaves_the_task_alone(shared_pool, tmp_path):
    gate = tmp_path / "gate"
    result = shared_pool.apply_async(tasks.wait_for_file, (str(gate), 1))
    for timeout in (0, 0.05):
        with pytest.raises(multiprocessing.TimeoutError) as caught:
            result.get(timeout)
        assert isinstance(caught.value, bireme.WaitTimeoutError)
        assert isinstance(caught.value, TimeoutError)
    gate.touch()
    assert result.get(GENEROUS) == 1


def test_a_failed_result(shared_pool):
    result = shared_pool.apply_async(tasks.fail, (1,))
    result.wait(GENEROUS)
    assert result.ready()
    assert not result.successful()
    for _ in range(2):
        with pytest.raises(ValueError, match="failed on"):
            result.get()


def test_map_async_and_starmap_async(shared_pool):
    first = shared_pool.map_async(tasks.square, range(50))
    second = shared_pool.map_async(tasks.square, [], chunksize=1)
    third = shared_pool.starmap_async(tasks.add, [(1, 2), (3, 4)])
    assert second.get(GENEROUS) == []
    assert third.get(GENEROUS) == [3, 7]
    assert first.get(GENEROUS) == [x * x for x in range(50)]
    assert first.successful()


def test_map_async_returns_before_the_work_is_done(shared_pool, tmp_path):
    gate = tmp_path / "gate"
    result = shared_pool.map_async(tasks.wait_for_file, [str(gate)] * 4, chunksize=1)
    assert not result.ready()
    gate.touch()
    assert result.get(GENEROUS) == [None] * 4


def test_each_callback_is_called_once_with_the_value(shared_pool):
    good: list[object] = []
    bad: list[BaseException] = []
    calls = [
        shared_pool.apply_async(tasks.square, (3,), {}, good.append, bad.append),
        shared_pool.apply_async(tasks.fail, (3,), {}, good.append, bad.append),
        shared_pool.map_async(tasks.square, [1, 2], 1, good.append, bad.append),
        shared_pool.map_async(tasks.fail_on_odd, [0, 1, 2, 3], 1, good.append, bad.append),
        shared_pool.starmap_async(tasks.add, [(1, 2)], 1, good.append, bad.append),
    ]
    for call in calls:
        call.wait(GENEROUS)
    assert poll(lambda: len(good) == 3 and len(bad) == 2)
    time.sleep(0.05)
    assert sorted(good, key=str) == [9, [1, 4], [3]]
    assert all(isinstance(error, ValueError) for error in bad)


def test_a_callback_has_run_when_the_wait_returns(shared_pool):
    """The standard pool's own tests rely on it."""
    for i in range(50):
        seen: list[int] = []
        shared_pool.apply_async(tasks.square, (i,), callback=seen.append).wait()
        assert seen == [i * i]


def test_callbacks_run_though_nobody_waits(shared_pool):
    seen = threading.Event()
    shared_pool.apply_async(tasks.square, (3,), callback=lambda _: seen.set())
    assert seen.wait(GENEROUS)


def test_a_callback_may_submit(shared_pool):
    second: list[object] = []

    def submit_again(value: int) -> None:
        second.append(shared_pool.apply_async(tasks.square, (value,)))

    shared_pool.apply_async(tasks.square, (2,), callback=submit_again).wait(GENEROUS)
    assert poll(lambda: second)
    assert second[0].get(GENEROUS) == 16  # type: ignore[attr-defined]


def test_a_failing_callback_hurts_nobody(run_script, start_method):
    """It is reported, and the pool goes on (the standard pool's result thread dies of it)."""
    result = run_script(
        """
        import sys
        import bireme

        def fail(value):
            raise RuntimeError("the callback failed")

        if __name__ == "__main__":
            with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                result = pool.apply_async(abs, (-1,), callback=fail)
                assert result.get(30) == 1
                seen = []
                pool.apply_async(abs, (-2,), callback=seen.append).wait(30)
                assert seen == [2]
                assert pool.map(abs, range(100)) == list(range(100))
        """,
        args=[start_method],
    ).check()
    assert "the callback failed" in result.stderr


def test_results_outlive_close(make_pool):
    pool = make_pool(2)
    results = [pool.apply_async(tasks.slow, (i, 0.01)) for i in range(20)]
    pool.close()
    pool.join()
    assert [result.get(0) for result in results] == list(range(20))


def test_sixty_four_threads_submit(shared_pool):
    def work(thread: int) -> list[int]:
        own = [shared_pool.apply_async(tasks.add, (thread, 1000 * i)) for i in range(30)]
        mapped = shared_pool.map(tasks.square, range(thread, thread + 50), 7)
        assert mapped == [x * x for x in range(thread, thread + 50)]
        assert list(shared_pool.imap(tasks.square, range(thread, thread + 20))) == mapped[:20]
        assert shared_pool.apply(tasks.add, (thread, 1)) == thread + 1
        return [result.get(GENEROUS) for result in own]

    with concurrent.futures.ThreadPoolExecutor(64) as threads:
        answers = list(threads.map(work, range(64)))
    assert answers == [[t + 1000 * i for i in range(30)] for t in range(64)]


def test_many_threads_wait_for_one_result(shared_pool, tmp_path):
    gate = tmp_path / "gate"
    result = shared_pool.apply_async(tasks.wait_for_file, (str(gate), "one"))
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        waiting = [threads.submit(result.get, GENEROUS) for _ in range(16)]
        gate.touch()
        assert [wait.result() for wait in waiting] == ["one"] * 16


def test_submitting_all_before_reading_any(shared_pool):
    """20,000 unread results block nobody."""
    results = [shared_pool.apply_async(tasks.square, (i,)) for i in range(20_000)]
    assert [result.get(GENEROUS) for result in results] == [i * i for i in range(20_000)]


def test_unread_large_results_do_not_block(shared_pool):
    """300 MB of results that nobody reads yet."""
    results = [
        shared_pool.apply_async(tasks.identity, (bytes([i]) * 3_000_000,)) for i in range(100)
    ]
    for i, result in reversed(list(enumerate(results))):
        assert result.get(GENEROUS) == bytes([i]) * 3_000_000
    results.clear()


def test_work_goes_on_while_the_caller_computes(shared_pool, tmp_path):
    """Nobody waits, nobody drains: the queue must not stand still."""
    results = [shared_pool.apply_async(tasks.record, (str(tmp_path), i)) for i in range(200)]
    done = poll(lambda: len(list(tmp_path.iterdir())) == 200, interval=0.1)
    assert done
    assert [result.get(GENEROUS) for result in results] == list(range(200))


def test_dropped_results_are_run_all_the_same(shared_pool, tmp_path):
    for i in range(50):
        shared_pool.apply_async(tasks.record, (str(tmp_path), i))
    assert poll(lambda: len(list(tmp_path.iterdir())) == 50)
