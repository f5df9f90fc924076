"""`AsyncResult.cancel`: before the start, while it runs, up the whole ladder."""

from __future__ import annotations

import concurrent.futures
import threading

import pytest

import bireme
from tests.integration import tasks
from tests.support.processes import is_alive
from tests.support.waiting import GENEROUS, poll

START_METHODS = ("template", "fork")  # all four with --every-start-method


def _start(pool, task, tmp_path):
    marker = tmp_path / "marker"
    result = pool.apply_async(task, (str(marker),))
    assert poll(lambda: marker.exists() and marker.read_text())
    return result, int(marker.read_text())


def test_a_queued_task_is_cancelled_before_it_runs(make_pool, tmp_path):
    pool = make_pool(1)
    gate = tmp_path / "gate"
    first = pool.apply_async(tasks.wait_for_file, (str(gate), "first"))
    second = pool.apply_async(tasks.record, (str(tmp_path), "second"))
    third = pool.apply_async(tasks.square, (3,))
    assert second.cancel()
    assert second.cancelled()
    with pytest.raises(bireme.CancelledError) as caught:
        second.get(GENEROUS)
    assert isinstance(caught.value, concurrent.futures.CancelledError)
    gate.touch()
    assert first.get(GENEROUS) == "first"
    assert third.get(GENEROUS) == 9
    assert not (tmp_path / "second").exists()
    assert second.ready()


def test_a_running_task_is_left_alone_unless_asked(make_pool, tmp_path):
    pool = make_pool(1)
    gate, marker = tmp_path / "gate", tmp_path / "marker"
    result = pool.apply_async(tasks.mark_and_wait, (str(marker), str(gate)))
    assert poll(marker.exists)
    assert not result.cancel()
    assert not result.cancelled()
    gate.touch()
    assert result.get(GENEROUS) == "waited"
    assert not result.cancel(running=True), "a finished task cannot be cancelled"


@pytest.mark.parametrize(
    "task", [tasks.loop_forever, tasks.sleep_forever, tasks.block_in_c, tasks.refuse_to_end]
)
def test_a_running_task_is_cancelled_when_asked(make_pool, tmp_path, task):
    pool = make_pool(2)
    neighbour = pool.apply_async(tasks.slow, ("neighbour", 2.0))
    result, _ = _start(pool, task, tmp_path)
    assert result.cancel(running=True)
    with pytest.raises(bireme.CancelledError):
        result.get(GENEROUS)
    assert result.cancelled()
    assert neighbour.get(GENEROUS) == "neighbour"
    assert pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]
    assert poll(lambda: len(pool.worker_pids()) == 2)


def test_a_cancelled_loop_keeps_its_worker_and_cleans_up(make_pool, tmp_path):
    pool = make_pool(1)
    result, worker = _start(pool, tasks.loop_with_cleanup, tmp_path)
    assert result.cancel(running=True)
    with pytest.raises(bireme.CancelledError):
        result.get(GENEROUS)
    assert poll((tmp_path / "marker.cleaned").exists), "`finally` blocks run"
    assert pool.apply(tasks.pid) == worker


def test_child_processes_of_a_cancelled_task_end(make_pool, tmp_path):
    pool = make_pool(1)
    result, child = _start(pool, tasks.start_child, tmp_path)
    assert is_alive(child)
    assert result.cancel(running=True)
    with pytest.raises(bireme.CancelledError):
        result.get(GENEROUS)
    assert poll(lambda: not is_alive(child))
    assert pool.apply(tasks.square, (3,)) == 9


def test_a_waiting_thread_is_woken(make_pool, tmp_path):
    pool = make_pool(1)
    result, _ = _start(pool, tasks.sleep_forever, tmp_path)
    seen: list[BaseException] = []

    def wait() -> None:
        try:
            result.get(GENEROUS)
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert result.cancel(running=True)
    thread.join(GENEROUS)
    assert [type(error) for error in seen] == [bireme.CancelledError]


def test_the_error_callback_hears_of_it(make_pool, tmp_path):
    pool = make_pool(1)
    seen: list[object] = []
    marker = tmp_path / "marker"
    result = pool.apply_async(tasks.sleep_forever, (str(marker),), error_callback=seen.append)
    assert poll(marker.exists)
    result.cancel(running=True)
    assert poll(lambda: seen)
    assert isinstance(seen[0], bireme.CancelledError)


def test_a_cancel_never_hits_the_next_task(make_pool):
    """Cancels race with the ends of short tasks: each task ends once, as itself or cancelled."""
    pool = make_pool(2)
    outcomes = {"done": 0, "cancelled": 0}
    for i in range(150):
        result = pool.apply_async(tasks.slow, (i, 0.001))
        bystander = pool.apply_async(tasks.add, (i, 1))
        result.cancel(running=True)
        try:
            assert result.get(GENEROUS) == i
            outcomes["done"] += 1
        except bireme.CancelledError:
            assert result.cancelled()
            outcomes["cancelled"] += 1
        assert bystander.get(GENEROUS) == i + 1
    assert sum(outcomes.values()) == 150
    assert outcomes["cancelled"]


def test_cancelling_a_map_ends_all_its_items(make_pool, tmp_path):
    pool = make_pool(2)
    result = pool.map_async(
        tasks.slow_record, [(str(tmp_path), i) for i in range(1000)], chunksize=5
    )
    assert poll(lambda: list(tmp_path.iterdir()))
    assert result.cancel(running=True)
    with pytest.raises(bireme.CancelledError):
        result.get(GENEROUS)
    assert pool.apply(tasks.square, (3,)) == 9
    assert len(list(tmp_path.iterdir())) < 1000


@pytest.mark.parametrize("retries", [0, 2])
def test_cancelling_a_map_ends_the_items_of_begun_chunks(make_pool, tmp_path, retries):
    pool = make_pool(2)
    items = [(str(tmp_path), x) for x in range(20)]
    result = pool.options(retries=retries).starmap_async(tasks.record_or_sleep, items, 5)
    assert poll(lambda: len(list(tmp_path.iterdir())) == 2)
    assert result.cancel(running=True)
    with pytest.raises(bireme.CancelledError):
        result.get(GENEROUS)
    assert pool.map(abs, range(-20, 0)) == list(range(20, 0, -1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "5"]


def test_cancelling_a_map_after_an_item_ran_out_of_time(make_pool, tmp_path):
    """The rest of its chunk is to run, until all is cancelled."""
    pool = make_pool(1)
    limited = pool.options(task_timeout=0.2)
    items = [(str(tmp_path), "refuses"), *((str(tmp_path), str(x)) for x in range(4))]
    result = limited.starmap_async(tasks.record_or_refuse_to_end, items, 5)
    assert poll(lambda: (tmp_path / "asked").exists())
    assert result.cancel(running=True)
    with pytest.raises(bireme.CancelledError):
        result.get(GENEROUS)
    assert pool.apply(tasks.square, (3,)) == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asked", "refuses"]
