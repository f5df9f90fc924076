"""Processes that tasks start: who ends them, who waits for them, and that nobody else is hit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

import bireme
from tests.integration import tasks
from tests.support.processes import is_alive, kill_descendant
from tests.support.waiting import GENEROUS, poll

START_METHODS = ("template", "fork")  # all four with --every-start-method

LIMIT = 0.2
AMPLE = 1.0  # for tasks that must not be late, in workers that have to be born and to import them


def _outcome(result):
    try:
        return result.get(GENEROUS)
    except bireme.TaskTimeoutError:
        return "late"


def test_the_end_of_a_stopped_task_hits_no_later_one(make_pool):
    """The worker begins the next task before the client has heard of the first one's end."""
    pool = make_pool(2)
    limited = pool.options(task_timeout=AMPLE)
    results = [limited.apply_async(tasks.run_or_hang, (i,)) for i in range(10)]
    assert [_outcome(result) for result in results] == ["late", 0] * 5


def test_the_end_of_a_stopped_task_hits_no_earlier_process(make_pool, tmp_path):
    """Neither what the initializer has started, nor what a task has just left running."""
    pool = make_pool(1, initializer=tasks.start_helper, initargs=(str(tmp_path),))
    limited = pool.options(task_timeout=LIMIT)
    for i in range(5):
        left = pool.apply_async(tasks.leave_running, (str(tmp_path / "left"),))
        late = limited.apply_async(tasks.start_child, (str(tmp_path / f"child{i}"),))
        assert _outcome(late) == "late"
        assert not is_alive(int((tmp_path / f"child{i}").read_text()))
        assert is_alive(left.get(GENEROUS))
        assert pool.apply(tasks.helper_ended) is None
    assert pool.statistics()["deaths"] == 0


@pytest.mark.parametrize("orphan", [False, True])
def test_descendants_of_a_stopped_task_are_gone_when_it_ends(make_pool, tmp_path, orphan):
    pool = make_pool(1)
    marker = tmp_path / "marker"
    result = pool.apply_async(tasks.start_and_hang, (str(marker), orphan))
    assert poll(lambda: marker.exists() and marker.read_text())
    assert is_alive(int(marker.read_text()))
    assert result.cancel(running=True)
    with pytest.raises(bireme.CancelledError):
        result.get(GENEROUS)
    assert not is_alive(int(marker.read_text()))
    assert pool.apply(tasks.square, (3,)) == 9


@pytest.mark.parametrize("end", ["retired", "killed"])
def test_the_end_of_a_worker_hits_no_process_of_another_pool(make_pool, tmp_path, end):
    """Both are the first worker of their pool."""
    ending, other = make_pool(1, maxtasksperchild=2), make_pool(1)
    gate, marker = tmp_path / "gate", tmp_path / "marker"
    worker = ending.apply(tasks.pid)
    running = other.apply_async(tasks.run_program_after, (str(gate), str(marker)))
    assert poll(marker.exists)
    if end == "killed":
        assert kill_descendant(worker, number=signal.SIGKILL)
    assert poll(lambda: ending.apply(tasks.pid) != worker)
    assert poll(lambda: not is_alive(worker))
    gate.touch()
    assert running.get(GENEROUS) == 0


@pytest.mark.parametrize("env", [None, {"PATH": os.defpath}])
def test_what_a_retired_worker_left_running_ends_with_it(make_pool, tmp_path, env):
    """Whether it has the worker's mark in its environment or not."""
    pool = make_pool(1, maxtasksperchild=1)
    for i in range(3):
        child = pool.apply(tasks.leave_running, (str(tmp_path / f"marker{i}"), env))
        assert poll(lambda child=child: not is_alive(child))
    assert pool.statistics()["deaths"] == 0


def test_orphans_that_ended_do_not_pile_up(make_pool):
    pool = make_pool(1)
    for _ in range(25):
        pool.apply(tasks.leave_orphans, (20,))
    assert pool.apply(tasks.count_zombies) < 250


def test_how_a_child_ended_stays_to_be_asked_for(make_pool):
    """Whoever has its object or its number can wait for it, in whatever task."""
    pool = make_pool(1)
    pool.apply(tasks.remember_ended)
    for _ in range(25):
        pool.apply(tasks.leave_orphans, (20,))
    assert pool.apply(tasks.remembered) == (7, 8)


@pytest.fixture
def bystanders():
    """Start a hundred processes that have nothing to do with any pool."""
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(subprocess.Popen(["sleep", "3600"])) for _ in range(100)]
        yield started
        for process in started:
            process.kill()


def test_nobody_is_looked_for_when_a_worker_leaves_nobody(bystanders):
    """A search reads of every process there is. Before a fork the thread that reads would be another."""
    workers = 5
    with bireme.Pool(1, start_method="spawn", maxtasksperchild=1) as pool:
        pool.apply(abs, (-1,))
        before = _reads_of_supervisors()
        for i in range(workers):
            assert pool.apply(abs, (-i,)) == i
        assert _reads_of_supervisors() - before < len(bystanders) * workers


def test_little_is_read_of_a_forked_worker_that_leaves_nobody(run_script):
    """The system remembers of a process what was read of it, and takes its time over that at the end."""
    result = run_script("""
        import bireme

        def reads():  # of this process, and of its children that have ended
            fields = open("/proc/self/io").read().split()
            return int(fields[fields.index("syscr:") + 1])

        with bireme.Pool(1, start_method="fork", maxtasksperchild=1) as pool:
            pool.apply(abs, (-1,))
            before = reads()
            for i in range(20):
                assert pool.apply(abs, (-i,)) == i
            print((reads() - before) // 20)
    """).check()
    assert int(result.stdout) < 25


def _reads_of_supervisors() -> int:
    """Return how many calls to read from files their threads have made."""
    reads = 0
    for thread in Path("/proc/self/task").iterdir():
        if (thread / "comm").read_text().startswith("bireme-supervis"):
            fields = (thread / "io").read_text().split()
            reads += int(fields[fields.index("syscr:") + 1])
    assert reads
    return reads
