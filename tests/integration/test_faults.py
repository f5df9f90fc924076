"""A worker dies: that task fails with a certificate, everything else goes on. On every start method."""

from __future__ import annotations

import concurrent.futures.process
import contextlib
import functools
import os
import pickle
import signal
import threading
import time

import pytest

import bireme
from tests.integration import tasks
from tests.support.processes import is_alive, kill_descendant
from tests.support.waiting import GENEROUS, poll

#: How a task ends its worker: the signal or the exit code that the certificate must name.
ENDS = {
    "SIGKILL": (signal.SIGKILL, None),
    "SIGTERM": (signal.SIGTERM, None),
    "SIGSEGV": (signal.SIGSEGV, None),
    "segv": (signal.SIGSEGV, None),
    "abort": (signal.SIGABRT, None),
    "recursion": (signal.SIGSEGV, None),
    "exit3": (None, 3),
    "sysexit5": (None, 5),
}


def _is_whole(pool) -> bool:
    """Whether a pool does its work, with all its workers."""
    assert pool.map(tasks.square, range(50), 1) == [x * x for x in range(50)]
    return bool(poll(lambda: len(set(pool.worker_pids())) == pool.processes))


@pytest.mark.parametrize("how", list(ENDS))
def test_a_death_fails_its_task_and_no_other(make_pool, how):
    pool = make_pool(2)
    number, exitcode = ENDS[how]
    others = [pool.apply_async(tasks.slow, (i, 0.02)) for i in range(10)]
    dying = pool.apply_async(tasks.die, (how,))
    others += [pool.apply_async(tasks.slow, (i, 0.02)) for i in range(10, 20)]
    with pytest.raises(bireme.WorkerDiedError) as caught:
        dying.get(GENEROUS)
    error = caught.value
    assert isinstance(error, bireme.BiremeError)
    assert isinstance(error, concurrent.futures.process.BrokenProcessPool)
    assert error.signal == number
    if exitcode is not None:
        assert error.exitcode == exitcode
    assert [other.get(GENEROUS) for other in others] == list(range(20))
    assert _is_whole(pool)


@pytest.mark.parametrize("how", ["SIGKILL", "exit3", "segv"])
def test_a_death_in_a_map_names_its_item(make_pool, how):
    pool = make_pool(2)
    with pytest.raises(bireme.WorkerDiedError) as caught:
        pool.map(functools.partial(tasks.die_on, bad=7, how=how), range(20), chunksize=1)
    assert caught.value.item == 7
    assert not caught.value.lost
    assert _is_whole(pool)


def _outcomes(it) -> list:
    """Return what each item of an iterator gave: its value or its exception."""
    outcomes = []
    while True:
        try:
            outcomes.append(next(it))
        except StopIteration:
            return outcomes
        except bireme.BiremeError as error:
            outcomes.append(error)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_every_item_of_an_iterator_has_its_outcome(make_pool, method):
    pool = make_pool(2)
    it = getattr(pool, method)(functools.partial(tasks.die_on, bad=3), range(10))
    outcomes = _outcomes(it)
    (death,) = (o for o in outcomes if isinstance(o, Exception))
    assert death.item == 3
    assert sorted(o for o in outcomes if not isinstance(o, Exception)) == [
        0,
        1,
        2,
        4,
        5,
        6,
        7,
        8,
        9,
    ]


def test_the_rest_of_the_chunk_is_not_lost_silently(make_pool, tmp_path):
    """Items after the culprit run; those before it are told to be lost, or have their results."""
    pool = make_pool(1)
    work = functools.partial(tasks.record_and_die_on, str(tmp_path), bad=7)
    outcomes = _outcomes(pool.imap(work, range(15), chunksize=5))
    assert len(outcomes) == 15
    assert isinstance(outcomes[7], bireme.WorkerDiedError)
    assert (outcomes[7].item, outcomes[7].lost) == (7, False)
    for index in (5, 6):
        if outcomes[index] != index:
            assert isinstance(outcomes[index], bireme.WorkerDiedError)
            assert outcomes[index].lost
            assert outcomes[index].died_in == 7
            assert "in item 7, before the result" in str(outcomes[index])
            assert outcomes[index].item == index
    assert outcomes[:5] + outcomes[8:] == [0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14]
    assert [tasks.runs(tmp_path, x) for x in range(15)] == [1] * 15, "at most once, each item"


def test_with_retries_the_whole_chunk_comes_back(make_pool, tmp_path):
    pool = make_pool(1)
    work = functools.partial(tasks.record_and_die_on, str(tmp_path), bad=7)
    outcomes = _outcomes(pool.imap(work, range(15), chunksize=5, retries=1))
    assert isinstance(outcomes[7], bireme.WorkerDiedError)
    assert outcomes[:7] + outcomes[8:] == [x for x in range(15) if x != 7]
    assert tasks.runs(tmp_path, 7) == 2


def test_several_deaths_in_one_map(make_pool):
    pool = make_pool(2)
    outcomes = _outcomes(pool.imap(tasks.die_on_every_fifth, range(30), chunksize=3))
    assert [o.item for o in outcomes if isinstance(o, Exception) and not o.lost] == [
        0,
        5,
        10,
        15,
        20,
        25,
    ]
    assert _is_whole(pool)


def test_an_idle_worker_that_dies_is_replaced(make_pool):
    pool = make_pool(2)
    for _ in range(3):
        victim = tasks.workers_of(pool)[0]
        assert kill_descendant(victim)
        assert poll(lambda v=victim: v not in tasks.workers_of(pool))
        assert _is_whole(pool)


def test_all_workers_die_at_once(make_pool):
    pool = make_pool(3)
    results = [pool.apply_async(tasks.slow, (i, 0.2)) for i in range(9)]
    for victim in tasks.workers_of(pool):
        kill_descendant(victim)
    ended = []
    for result in results:
        try:
            ended.append(result.get(GENEROUS))
        except bireme.WorkerDiedError:
            ended.append(None)
    assert len(ended) == 9
    assert all(value in (None, i) for i, value in enumerate(ended))
    assert _is_whole(pool)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_newborns_that_are_killed_do_not_break_the_pool(make_pool, how):
    """However fast they are killed, every call ends; the pool is whole when that has ended."""
    pool, calm, ended = make_pool(2), threading.Event(), []

    def kill_all():
        while not calm.is_set():
            for pid in pool.worker_pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
            time.sleep(0.002)

    def call():
        for _ in range(3):
            try:
                ended.append(pool.apply(tasks.square, (3,)))
            except bireme.WorkerDiedError as error:
                ended.append(error)

    killer, caller = threading.Thread(target=kill_all), threading.Thread(target=call, daemon=True)
    killer.start()
    caller.start()
    caller.join(2 * GENEROUS)
    calm.set()
    killer.join()
    assert len(ended) == 3
    with contextlib.suppress(bireme.WorkerDiedError):
        pool.apply(tasks.square, (3,))  # the last one to be killed may be on its way still
    assert pool.map(tasks.square, range(50), 1) == [x * x for x in range(50)]


def test_a_neighbours_result_is_not_touched(make_pool, tmp_path):
    """The survivor's task goes on undisturbed, in the same process."""
    pool = make_pool(2)
    gate = tmp_path / "gate"
    survivor = pool.apply_async(tasks.pid_after_file, (str(gate),))
    for _ in range(3):
        with pytest.raises(bireme.WorkerDiedError):
            pool.apply(tasks.die, ("SIGKILL",))
    gate.touch()
    assert survivor.get(GENEROUS) in pool.worker_pids()


def test_grandchildren_go_with_their_worker(make_pool, tmp_path):
    pool = make_pool(1)
    marker = tmp_path / "child"
    result = pool.apply_async(tasks.start_child, (str(marker),))
    assert poll(marker.exists)
    child = int(marker.read_text())
    assert is_alive(child)
    assert kill_descendant(tasks.workers_of(pool)[0])
    with pytest.raises(bireme.WorkerDiedError):
        result.get(GENEROUS)
    assert poll(lambda: not is_alive(child))


def test_the_error_callback_hears_of_a_death(make_pool):
    pool = make_pool(1)
    seen: list[BaseException] = []
    pool.apply_async(tasks.die, ("SIGKILL",), error_callback=seen.append).wait(GENEROUS)
    assert poll(lambda: seen)
    assert isinstance(seen[0], bireme.WorkerDiedError)


class TestCertificate:
    """What `WorkerDiedError` says."""

    @pytest.fixture
    def certify(self, make_pool):
        def certify(task, *args):
            pool = make_pool(1, name="certified")
            worker = pool.apply(tasks.pid)
            with pytest.raises(bireme.WorkerDiedError) as caught:
                pool.apply(task, args)
            assert caught.value.pid == worker
            return caught.value

        return certify

    def test_a_signal(self, certify):
        error = certify(tasks.die, "SIGKILL")
        assert error.signal == signal.SIGKILL
        assert error.exitcode in (None, -signal.SIGKILL)
        assert "SIGKILL" in str(error)
        assert str(error.pid) in str(error)
        assert "die" in str(error.task)
        assert not error.oom_killed
        assert not error.lost

    def test_an_exit(self, certify):
        error = certify(tasks.die, "exit3")
        assert (error.signal, error.exitcode) == (None, 3)
        assert "3" in str(error)

    def test_the_last_words(self, certify):
        error = certify(tasks.die, "SIGKILL")
        assert "last words before SIGKILL" in str(error.last_output)

    @pytest.mark.parametrize("how", ["segv", "abort"])
    def test_the_stack(self, certify, how):
        error = certify(tasks.die, how)
        assert "die" in str(error.stack)
        assert "ends.py" in str(error.stack)

    def test_the_memory(self, certify):
        error = certify(tasks.allocate_and_die, 100 << 20)
        assert error.peak_memory_bytes is not None
        assert error.peak_memory_bytes >= 100 << 20

    def test_it_pickles(self, certify):
        error = certify(tasks.die, "exit3")
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is bireme.WorkerDiedError
        assert (copy.pid, copy.exitcode, str(copy)) == (error.pid, 3, str(error))

    def test_it_says_what_to_do(self, certify):
        error = certify(tasks.die, "SIGKILL")
        assert any("hint" in note for note in getattr(error, "__notes__", ()))

    def test_the_worker_is_named(self, certify):
        assert certify(tasks.die, "SIGKILL").worker is not None


def test_recursion_without_end_is_an_exception(pool):
    with pytest.raises(RecursionError):
        pool.apply(tasks.recurse)
    with pytest.raises(RecursionError):
        pool.map(tasks.recurse, range(4))
    assert _is_whole(pool)


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "GeneratorExit"])
def test_a_task_that_raises_what_is_no_exception(pool, name):
    """It arrives wrapped: the caller must not mistake it for a Ctrl-C of its own."""
    with pytest.raises(Exception, match=name) as caught:
        pool.apply_async(tasks.raise_base, (name,)).get(GENEROUS)
    assert isinstance(caught.value, Exception)
    assert _is_whole(pool)


def test_a_stopped_worker_and_a_limit(make_pool):
    pool = make_pool(2)
    neighbour = pool.apply_async(tasks.slow, ("neighbour", 1.5))
    result = pool.options(task_timeout=0.5).apply_async(tasks.stop_self)
    with pytest.raises(bireme.TaskTimeoutError):
        result.get(GENEROUS)
    assert neighbour.get(GENEROUS) == "neighbour"
    assert _is_whole(pool)


def test_a_stopped_worker_and_a_wait(make_pool):
    """The wait ends in time, and the pool can still be terminated."""
    pool = make_pool(1)
    result = pool.apply_async(tasks.stop_self)
    with pytest.raises(bireme.WaitTimeoutError):
        result.get(0.3)
    pids = tasks.workers_of(pool)
    pool.terminate()
    pool.join()
    assert poll(lambda: not any(map(is_alive, pids)))


def test_a_worker_stopped_while_idle(make_pool):
    """Work goes to the others."""
    pool = make_pool(2)
    _is_whole(pool)
    stopped = tasks.workers_of(pool)[0]
    assert kill_descendant(stopped, number=signal.SIGSTOP)
    try:
        results = [pool.apply_async(tasks.pid) for _ in range(20)]
        assert {result.get(GENEROUS) for result in results} <= set(tasks.workers_of(pool)) - {
            os.getpid()
        }
    finally:
        kill_descendant(stopped, number=signal.SIGCONT)


def test_how_a_worker_ended_though_the_caller_ignores_its_children(run_script):
    result = run_script("""
        import os, signal
        import bireme

        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        with bireme.Pool(1) as pool:
            for end in (lambda: os._exit(3), lambda: os.kill(os.getpid(), 11)):
                try:
                    pool.apply(end)
                except bireme.WorkerDiedError as error:
                    print(error.exitcode, error.signal)
    """).check()
    assert result.stdout.split() == ["3", "None", "None", "11"]
