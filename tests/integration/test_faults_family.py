"""The caller or the template is killed: nothing outlives the caller, and a template is replaced."""

from __future__ import annotations

import os
import signal

import pytest

from tests.integration import tasks
from tests.support.processes import is_alive, kill_descendant, read_process
from tests.support.scripts import WITH_TASKS, Script
from tests.support.waiting import GENEROUS, poll

_BUSY = """
    import sys, time
    import bireme
    from tests.integration import tasks

    if __name__ == "__main__":
        pool = bireme.Pool(2, start_method=sys.argv[1])
        assert pool.map(tasks.square, range(4)) == [0, 1, 4, 9]
        {work}
        print("ready", *tasks.workers_of(pool), flush=True)
        time.sleep(3600)
"""

_WORK = {
    "idle": "pass",
    "sleeping": "kept = pool.map_async(tasks.slow_hour, range(8), 1)",
    "computing": "kept = pool.map_async(tasks.loop_forever, [None] * 8, 1)",
    "blocked_in_c": "kept = pool.map_async(tasks.block_in_c, [None] * 8, 1)",
    "stubborn": "kept = pool.map_async(tasks.refuse_to_end, [None] * 8, 1)",
    "stopped": "kept = pool.map_async(tasks.stop_self_of, range(2), 1)",
    "with_children": "kept = [pool.apply_async(tasks.start_child, (f'child{i}',)) for i in range(2)]; time.sleep(1)",
    "transferring": "kept = pool.map_async(tasks.identity, [bytes(5_000_000)] * 200, 1)",
}


def _shared_names() -> set[str]:
    """Return the names in shared memory that can be ours; other programs have their own there."""
    return {name for name in os.listdir("/dev/shm") if "bireme" in name}


@pytest.mark.parametrize("work", list(_WORK))
def test_nothing_outlives_a_killed_caller(start_method, work, tmp_path):
    """No process, no shared memory, no file; grandchildren included."""
    before = _shared_names()
    env = {**WITH_TASKS, "TMPDIR": str(tmp_path)}
    with Script(_BUSY.format(work=_WORK[work]), args=[start_method], env=env) as script:
        script.wait_for_output("ready")
        family = script.family()
        assert len(family) >= 3
        os.kill(script.pid, signal.SIGKILL)
        result = script.wait(timeout=10, grace=10)
        assert not result.survivors, result.describe()
        # A process that is being torn down has no environment any more, and is not yet gone.
        assert poll(lambda: not [process for process in family if is_alive(process.pid)])
    assert poll(lambda: _shared_names() <= before), _shared_names() - before
    assert not list(tmp_path.iterdir()), "files are left in the folder for temporary ones"


def test_nothing_outlives_a_caller_killed_while_its_pool_is_born(start_method):
    for delay in (0.02, 0.1, 0.2, 0.4):
        with Script(_BUSY.format(work="pass"), args=[start_method], env=WITH_TASKS) as script:
            poll(lambda: False, timeout=delay)
            os.kill(script.pid, signal.SIGKILL)
            assert not script.wait(timeout=10, grace=10).survivors


def _template_of(worker: int) -> int:
    process = read_process(worker)
    assert process is not None
    return process.parent


def test_a_killed_template_is_replaced():
    """Running tasks finish, later ones run, dead workers still get successors."""
    program = """
        import os, sys
        import bireme
        from tests.integration import tasks

        with bireme.Pool(2) as pool:
            running = [pool.apply_async(tasks.slow, (i, 1.5)) for i in range(2)]
            print("ready", *tasks.workers_of(pool), flush=True)
            assert [result.get(30) for result in running] == [0, 1]
            print("finished", flush=True)
            for _ in range(3):
                assert pool.map(tasks.square, range(50), 1) == [x * x for x in range(50)]
                try:
                    pool.apply(tasks.die, ("SIGKILL",))
                except bireme.WorkerDiedError:
                    pass
            assert pool.map(tasks.square, range(50), 1) == [x * x for x in range(50)]
            tasks.workers_of(pool)
        with bireme.Pool(1) as other:
            assert other.apply(tasks.square, (3,)) == 9
    """
    with Script(program, env=WITH_TASKS) as script:
        script.wait_for_output("ready")
        worker = int(script.stdout.split()[1])
        template = _template_of(worker)
        assert template != script.pid
        assert kill_descendant(template)
        script.wait_for_output("finished")
        script.wait(timeout=60).check()


def test_a_template_killed_again_and_again():
    program = """
        import bireme, sys, time
        from tests.integration import tasks

        with bireme.Pool(2) as pool:
            print("ready", flush=True)
            for round in range(8):
                print("workers", *tasks.workers_of(pool), flush=True)
                values = pool.map(tasks.slow, range(20), 1, retries=5)
                assert values == list(range(20)), values
        print("over", flush=True)
    """
    with Script(program, env=WITH_TASKS) as script:
        script.wait_for_output("ready")
        killed = set()

        def kill_a_template() -> bool:
            lines = [line for line in script.stdout.splitlines() if line.startswith("workers")]
            for worker in lines[-1].split()[1:] if lines else ():
                process = read_process(int(worker))
                if process and process.parent not in {*killed, script.pid, 1} and len(killed) < 4:
                    killed.add(process.parent)
                    kill_descendant(process.parent)
            return "over" in script.stdout or script.process.poll() is not None

        assert poll(kill_a_template, timeout=60, interval=0.1)
        script.wait(timeout=30).check()
        assert killed


_STALLING = """
    import os, pathlib, signal, time

    def stall():
        if pathlib.Path("stall").exists():
            pathlib.Path("stall").unlink()
            time.sleep(1.0)
            os.kill(os.getpid(), signal.SIGKILL)

    os.register_at_fork(after_in_parent=stall)
"""


def test_a_worker_that_nobody_was_told_of_takes_no_task_along():
    """It has begun to work when its template dies, which has not told of the birth yet."""
    program = """
        import pathlib
        import bireme

        def work(number):
            return number, sum(range(5000))

        pathlib.Path("stall").touch()
        with bireme.Pool(1, preload=("stalling",)) as pool:
            tasks = pool.options(retries=5)
            results = [tasks.apply_async(work, (i,)) for i in range(20_000)]
            right = [(i, sum(range(5000))) for i in range(20_000)]
            assert [result.get(30) for result in results] == right
            assert not pathlib.Path("stall").exists()
    """
    with Script(program, modules={"stalling.py": _STALLING}) as script:
        script.wait(timeout=60).check()


def test_a_stopped_template_does_not_stop_the_workers():
    program = """
        import bireme, os, signal, sys
        from tests.integration import tasks
        from tests.support.processes import kill_descendant, read_process

        with bireme.Pool(2) as pool:
            template = read_process(tasks.workers_of(pool)[0]).parent
            kill_descendant(template, number=signal.SIGSTOP)
            assert pool.map(tasks.square, range(500), 1) == [x * x for x in range(500)]
            kill_descendant(template, number=signal.SIGCONT)
    """
    with Script(program, env=WITH_TASKS) as script:
        script.wait(timeout=60).check()


def test_a_worker_that_makes_itself_a_daemon_child_is_still_ended(make_pool, tmp_path):
    """A grandchild in a session of its own, whose parent is gone: the worker is its subreaper."""
    pool = make_pool(1)
    marker = tmp_path / "daemon"
    result = pool.apply_async(tasks.start_daemon, (str(marker),))
    assert poll(marker.exists)
    daemon = int(marker.read_text())
    assert is_alive(daemon)
    pool.terminate()
    pool.join()
    assert poll(lambda: not is_alive(daemon), timeout=GENEROUS)
    del result
