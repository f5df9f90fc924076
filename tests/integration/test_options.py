"""Limits and retries of a task; cancelling is in `test_cancel.py`."""

from __future__ import annotations

import functools
import io

import pytest

import bireme
from tests.integration import tasks
from tests.support.processes import is_alive
from tests.support.waiting import GENEROUS, poll

START_METHODS = ("template", "fork")  # all four with --every-start-method

LIMIT = 0.5


@pytest.fixture(scope="module", autouse=True)
def _warm_tqdm():
    """The first bar of a process makes a lock and a thread that stay."""
    tqdm = pytest.importorskip("tqdm")
    with tqdm.tqdm(total=1, file=io.StringIO()) as bar:
        bar.update()


@pytest.mark.parametrize(
    "task", [tasks.loop_forever, tasks.sleep_forever, tasks.block_in_c, tasks.refuse_to_end]
)
def test_a_task_that_exceeds_its_limit_is_ended(make_pool, tmp_path, task):
    pool = make_pool(2)
    marker = tmp_path / "marker"
    neighbour = pool.apply_async(tasks.slow, ("neighbour", 2.0))
    result = pool.options(task_timeout=LIMIT).apply_async(task, (str(marker),))
    with pytest.raises(bireme.TaskTimeoutError) as caught:
        result.get(GENEROUS)
    assert isinstance(caught.value, TimeoutError)
    assert not isinstance(caught.value, bireme.WaitTimeoutError)
    assert neighbour.get(GENEROUS) == "neighbour", "neighbours are untouched"
    assert pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]
    assert poll(lambda: len(pool.worker_pids()) == 2)


def test_a_stopped_loop_keeps_its_worker(make_pool):
    """The worker is replaced only if the task does not listen."""
    pool = make_pool(1)
    before = pool.apply(tasks.pid)
    with pytest.raises(bireme.TaskTimeoutError):
        pool.options(task_timeout=LIMIT).apply_async(tasks.loop_forever).get(GENEROUS)
    assert pool.apply(tasks.pid) == before


def test_the_limit_is_each_tasks_own(make_pool):
    """Ten tasks of 0.2 s under a limit of 1 s are fine, though together they take longer."""
    pool = make_pool(1)
    slow = functools.partial(tasks.slow, seconds=0.2)
    assert pool.map(slow, range(10), chunksize=5, task_timeout=1.5) == list(range(10))
    assert pool.starmap(tasks.slow, [(1, 0.01)], task_timeout=5) == [1]
    assert list(pool.imap(slow, range(3), task_timeout=5)) == [0, 1, 2]


def test_time_in_the_queue_does_not_count(make_pool):
    pool = make_pool(1)
    limited = pool.options(task_timeout=1.0)
    results = [limited.apply_async(tasks.slow, (i, 0.3)) for i in range(8)]
    assert [result.get(GENEROUS) for result in results] == list(range(8))


def test_map_names_the_item_that_took_too_long(make_pool, tmp_path):
    pool = make_pool(2)
    outcomes = []
    it = pool.imap(functools.partial(tasks.sleep_on, bad=3), range(6), task_timeout=LIMIT)
    while True:
        try:
            outcomes.append(next(it))
        except bireme.TaskTimeoutError:
            outcomes.append("late")
        except StopIteration:
            break
    assert outcomes == [0, 1, 2, "late", 4, 5]


def test_the_children_of_a_task_end_with_it(make_pool, tmp_path):
    pool = make_pool(1)
    marker = tmp_path / "child"
    result = pool.options(task_timeout=1.5).apply_async(tasks.start_child, (str(marker),))
    with pytest.raises(bireme.TaskTimeoutError):
        result.get(GENEROUS)
    assert marker.exists()
    assert poll(lambda: not is_alive(int(marker.read_text())))


@pytest.mark.parametrize("bad", [0, -1, "soon"])
def test_wrong_limits_are_refused(shared_pool, bad):
    with pytest.raises((ValueError, TypeError), match="task_timeout"):
        shared_pool.map(tasks.square, [1], task_timeout=bad)


def test_wrong_retries_are_refused(shared_pool):
    with pytest.raises((ValueError, TypeError), match="retries"):
        shared_pool.map(tasks.square, [1], retries=-1)
    with pytest.raises((ValueError, TypeError), match="retry_on"):
        shared_pool.map(tasks.square, [1], retries=1, retry_on=(1,))


def test_a_death_is_retried_when_asked(make_pool, tmp_path):
    pool = make_pool(2)
    work = functools.partial(tasks.die_first_time, str(tmp_path))
    assert pool.map(work, range(6), chunksize=2, retries=3) == list(range(6))
    assert all(tasks.runs(tmp_path, x) >= 2 for x in range(6))


def test_a_death_is_not_retried_unasked(make_pool, tmp_path):
    pool = make_pool(2)
    with pytest.raises(bireme.WorkerDiedError):
        pool.apply(tasks.die_first_time, (str(tmp_path), 1))
    assert tasks.runs(tmp_path, 1) == 1


def test_retries_are_counted(make_pool, tmp_path):
    pool = make_pool(1)
    result = pool.options(retries=2).apply_async(tasks.record_and_die, (str(tmp_path), 1))
    with pytest.raises(bireme.WorkerDiedError):
        result.get(GENEROUS)
    assert tasks.runs(tmp_path, 1) == 3


def test_exceptions_are_retried_when_named(make_pool, tmp_path):
    pool = make_pool(2)
    work = functools.partial(tasks.fail_first_times, str(tmp_path), times=2)
    options = {"retries": 2, "retry_on": (ConnectionError,)}
    assert pool.map(work, range(4), chunksize=1, **options) == list(range(4))
    assert [tasks.runs(tmp_path, x) for x in range(4)] == [3] * 4
    again = pool.options(**options).apply_async(work, ("other",))
    assert again.get(GENEROUS) == "other"


def test_exceptions_not_named_are_not_retried(make_pool, tmp_path):
    pool = make_pool(1)
    work = functools.partial(tasks.fail_first_times, str(tmp_path), times=1)
    for retry_on in ((), (ValueError,)):
        with pytest.raises(ConnectionError):
            pool.map(work, [str(retry_on)[:3]], retries=5, retry_on=retry_on)
        assert tasks.runs(tmp_path, str(retry_on)[:3]) == 1


def test_the_last_error_is_raised_when_retries_end(make_pool, tmp_path):
    pool = make_pool(1)
    work = functools.partial(tasks.fail_first_times, str(tmp_path), times=10)
    with pytest.raises(ConnectionError):
        pool.map(work, [1], retries=3, retry_on=(ConnectionError,))
    assert tasks.runs(tmp_path, 1) == 4


def test_a_timeout_is_retried_when_named(make_pool, tmp_path):
    pool = make_pool(1)
    work = functools.partial(tasks.sleep_first_time, str(tmp_path))
    got = pool.map(work, [1], task_timeout=LIMIT, retries=1, retry_on=(TimeoutError,))
    assert got == [1]
    with pytest.raises(bireme.TaskTimeoutError):
        pool.map(work, [2], task_timeout=LIMIT, retries=1)


def test_a_closed_pool_retries_as_any(make_pool, tmp_path):
    """What is to be tried again has not ended: workers stay for it."""
    for i in range(3, 9):
        pool = make_pool(1)
        limited = pool.options(task_timeout=LIMIT, retries=1, retry_on=(TimeoutError,))
        result = limited.apply_async(tasks.sleep_first_time, (str(tmp_path), i))
        pool.close()
        assert result.get(GENEROUS) == i


def test_options_do_not_stick(make_pool):
    pool = make_pool(1)
    limited = pool.options(task_timeout=0.2)
    assert pool.apply(tasks.slow, (1, 0.6)) == 1
    assert limited.apply_async(tasks.add, (1,), {"y": 2}).get(GENEROUS) == 3
    assert limited.map(tasks.square, [1, 2]) == [1, 4]


def test_option_names_stay_free_for_functions(shared_pool):
    """Options never sit among the function's own keyword arguments."""
    given = {"task_timeout": 1, "retries": 2, "name": "x", "seed": 4}
    assert shared_pool.apply(dict, (), given) == given
    assert shared_pool.apply_async(dict, (), given).get(GENEROUS) == given


@pytest.mark.parametrize("call", ["map", "imap", "imap_unordered", "starmap"])
def test_progress_is_shown_when_asked(shared_pool, capsys, call):
    pytest.importorskip("tqdm")
    items = [(x,) for x in range(20)] if call == "starmap" else range(20)
    result = getattr(shared_pool, call)(tasks.square, items, progress=True)
    assert sorted(result) == [x * x for x in range(20)]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "20/20" in captured.err


@pytest.mark.parametrize("call", ["map_async", "starmap_async"])
def test_an_asynchronous_bar_moves_though_nobody_waits(shared_pool, capsys, tmp_path, call):
    """It is there at once, and closed at the end, before anybody is told of it."""
    pytest.importorskip("tqdm")
    here, gate = tmp_path / "here", tmp_path / "gate"
    here.touch()
    pairs = [(str(gate if x >= 10 else here), x) for x in range(20)]
    func = tasks.wait_for_pair if call == "map_async" else tasks.wait_for_pair_of
    shown, seen = "", []
    result = getattr(shared_pool, call)(func, pairs, 1, seen.append, progress=True)
    try:

        def moved():
            nonlocal shown
            shown += capsys.readouterr().err
            return "10/20" in shown

        assert poll(moved), shown
        assert not result.ready()
        assert not seen
    finally:
        gate.touch()
    assert poll(lambda: seen) == [list(range(20))]
    shown += capsys.readouterr().err
    assert "20/20" in shown
    assert shown.endswith("\n"), "it was not closed"
    assert result.get(GENEROUS) == list(range(20))


def test_a_bar_is_closed_whatever_happens(make_pool, shared_pool, capsys):
    pytest.importorskip("tqdm")
    assert shared_pool.map_async(tasks.square, [], progress=True).get(GENEROUS) == []
    failing = shared_pool.map_async(tasks.fail_on_odd, range(4), progress=True)
    with pytest.raises(ValueError, match="odd"):
        failing.get(GENEROUS)
    with pytest.raises(bireme.PicklingError):
        shared_pool.map_async(tasks.square, [1, (x for x in [])], progress=True)
    pool = make_pool(1)
    endless = pool.map_async(tasks.slow_hour, range(3), progress=True)
    pool.terminate()
    with pytest.raises(bireme.CancelledError):
        endless.get(GENEROUS)
    assert capsys.readouterr().err.count("\n") == 4


def test_the_bar_of_a_cancelled_map_stays_where_it_was(shared_pool, tmp_path, capsys):
    pytest.importorskip("tqdm")
    gate = tmp_path / "gate"
    result = shared_pool.map_async(
        tasks.wait_for_pair, [(str(gate), i) for i in range(40)], 1, progress=True
    )
    assert result.cancel(running=True)
    with pytest.raises(bireme.CancelledError):
        result.get(GENEROUS)
    result = shared_pool.map_async(tasks.fail_on_odd, range(40), progress=True)
    with pytest.raises(ValueError, match="odd"):
        result.get(GENEROUS)
    cancelled, failed = capsys.readouterr().err.strip().split("\n")
    assert "40/40" not in cancelled
    assert "40/40" in failed


def test_progress_with_an_unknown_total(shared_pool, capsys):
    pytest.importorskip("tqdm")
    result = list(shared_pool.imap(tasks.square, (x for x in range(20)), progress=True))
    assert len(result) == 20
    assert "20" in capsys.readouterr().err
