"""Tasks that close what their worker needs, or leave forks behind; workers and templates that stand still."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

import psutil
import pytest

import bireme
from tests.integration import tasks
from tests.support.processes import is_alive
from tests.support.scripts import WITH_TASKS, Script
from tests.support.waiting import GENEROUS, poll


def test_a_task_that_closes_all_descriptors_harms_no_other(make_pool):
    """Large results need descriptors, and whoever claims next is not to blame."""
    pool = make_pool(1)
    robbed = pool.apply(tasks.close_all)
    results = pool.map(bytes, [1_000_000] * 6, 1)
    assert [len(result) for result in results] == [1_000_000] * 6
    assert pool.apply(os.getpid) != robbed, "its worker has left"


def test_files_of_a_task_are_its_own(make_pool, tmp_path):
    """They may have the numbers that were the worker's."""
    pool = make_pool(1)
    assert pool.apply(tasks.close_all_and_write, (str(tmp_path),)) == [4] * 40
    assert pool.map(abs, [-1, -2], 1) == [1, 2]
    pool.close()
    pool.join()
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"ours"}


def test_a_task_may_delete_the_standard_streams(make_pool):
    pool = make_pool(1)
    assert pool.apply(tasks.delete_streams) == 5
    assert pool.apply(abs, (-1,)) == 1


@pytest.mark.parametrize("how", ["before", "after", "both"])
def test_a_task_may_close_its_output_amid_a_line(run_script, start_method, how):
    """The line is lost, the result is not."""
    result = run_script(
        """
        import os, sys
        import bireme

        def close_amid_a_line(how):
            if how in ("before", "both"):
                sys.stdout.write("partial")
            os.close(1)
            if how in ("after", "both"):
                sys.stdout.write("partial")
            return 3

        if __name__ == "__main__":
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                worker = pool.apply(os.getpid)
                assert pool.apply(close_amid_a_line, (sys.argv[2],)) == 3
                assert pool.apply(os.getpid) == worker
        """,
        args=[start_method, how],
    ).check()
    assert not result.stderr, result.stderr


_LONG = """
    import sys, time
    import bireme
    from tests.integration import tasks

    if __name__ == "__main__":
        pool = bireme.Pool(1, start_method=sys.argv[1])
        kept = pool.apply_async(getattr(tasks, sys.argv[2]))
        while True:
            kept.wait(0.1)
"""


@pytest.mark.parametrize("work", ["fork_and_sleep", "close_all_and_sleep"])
def test_a_worker_without_its_watchdog_goes_with_the_caller(start_method, work):
    with Script(_LONG, args=[start_method, work], env=WITH_TASKS) as script:
        script.wait_for_output("begun")
        worker = int(script.stdout.split()[1])
        time.sleep(0.1)  # the watchdog is back, or has seen what happened
        os.kill(script.pid, signal.SIGKILL)
        result = script.wait(timeout=10, grace=10)
        assert not result.survivors, result.describe()
        assert poll(lambda: not is_alive(worker))


@pytest.mark.parametrize("how", ["stay", "die"])
def test_forks_of_a_task_go_with_its_worker(make_pool, capfd, how):
    pool = make_pool(1)
    if how == "die":
        with pytest.raises(bireme.WorkerDiedError) as caught:
            pool.apply(tasks.leave_fork, (how,))
        child = int(caught.value.last_output.split()[1])
    else:
        child = pool.apply(tasks.leave_fork, (how,))
        pool.close()
        pool.join()
    assert poll(lambda: not is_alive(child))


@pytest.mark.parametrize("many", [False, True])
def test_a_limit_covers_the_unpickling_of_arguments(make_pool, many):
    pool = make_pool(1)
    limited, hangs = pool.options(task_timeout=0.3), tasks.HangsAtHome()
    with pytest.raises(bireme.TaskTimeoutError):
        limited.map(tasks.identity, [hangs]) if many else limited.apply(tasks.identity, (hangs,))
    assert pool.apply(abs, (-1,)) == 1


def test_a_stopped_worker_holds_up_at_most_its_own_task(make_pool):
    """It may stand anywhere: between two tasks, at a claim, before it tells of a result."""
    pool = make_pool(2)
    pool.map(abs, range(4), 1)
    for _ in range(12):
        results = [pool.options(task_timeout=0.5).apply_async(abs, (n,)) for n in range(1000)]
        stopped = psutil.Process(pool.worker_pids()[0])
        stopped.suspend()
        late = 0
        for number, result in enumerate(results):
            try:
                assert result.get(GENEROUS) == number
            except bireme.TaskTimeoutError:
                late += 1
        assert late <= 1
        if stopped.is_running():
            stopped.resume()


@pytest.mark.usefixtures("warm_template")
def test_a_stopped_template_goes_on_when_it_is_needed():
    with bireme.Pool(1) as pool:
        pool.apply(abs, (-1,))
        os.kill(pool._client.template_pid(), signal.SIGSTOP)
        with pytest.raises(bireme.WorkerDiedError):
            pool.apply(os._exit, (3,))
        assert pool.apply_async(abs, (-1,)).get(GENEROUS) == 1


def test_descriptors_taken_away_from_a_living_pool(run_script, start_method):
    run_script(
        """
        import os, resource, sys, time
        import bireme

        if __name__ == "__main__":
            pool = bireme.Pool(8, start_method=sys.argv[1])
            pool.map(abs, range(20), 1)
            while len(pool.worker_pids()) < 8:
                time.sleep(0.01)
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (16, hard))
            try:
                pool.apply_async(os._exit, (3,)).get(30)
            except bireme.BiremeError:
                pass
            assert pool.map_async(abs, range(20), 1).get(30) == list(range(20))
            pool.terminate()
            pool.join()
        """,
        args=[start_method],
    ).check()


def test_a_long_preload_does_not_outlive_the_caller(tmp_path):
    program = """
        import bireme, time
        pool = bireme.Pool(1, preload=("slow_to_import",))
        time.sleep(3600)
    """
    slow = "import time\nprint('preloading', flush=True)\ntime.sleep(3600)\n"
    with Script(program, modules={"slow_to_import.py": slow}) as script:
        script.wait_for_output("preloading")
        os.kill(script.pid, signal.SIGKILL)
        result = script.wait(timeout=10, grace=10)
        assert not result.survivors, result.describe()


def test_newborn_workers_that_are_ended_do_not_end_the_others(make_pool):
    pool = make_pool(2)
    pool.map(abs, range(4), 1)
    keeper = pool.worker_pids()[0]
    over = threading.Event()

    def end_all_but_the_keeper() -> None:
        while not over.wait(0.001):
            for pid in pool.worker_pids():
                if pid != keeper and is_alive(pid):
                    with suppress(ProcessLookupError):  # it has just gone
                        os.kill(pid, signal.SIGTERM)

    thread = threading.Thread(target=end_all_but_the_keeper)
    thread.start()
    try:
        patient = pool.options(retries=1000)
        assert patient.starmap(tasks.slow, [(n, 0.02) for n in range(40)], 1) == list(range(40))
    finally:
        over.set()
        thread.join()
    assert pool.apply(abs, (-1,)) == 1


@pytest.mark.parametrize("call", ["get", "map", "imap"])
def test_the_end_of_the_interpreter_passes_by_daemon_threads(run_script, call):
    """Python ends them by unwinding their stacks, which must not find frames of ours there."""
    program = """
        import sys, threading, time
        import bireme

        calls = {
            "get": lambda: pool.apply_async(time.sleep, (60,)).get(),
            "map": lambda: pool.map(time.sleep, [60] * 4),
            "imap": lambda: list(pool.imap(time.sleep, [60] * 4)),
        }

        def wait():
            try:
                calls[sys.argv[1]]()
            except (bireme.BiremeError, ValueError):
                pass

        pool = bireme.Pool(2, start_method=sys.argv[2])
        pool.apply(abs, (1,))
        for _ in range(4):
            threading.Thread(target=wait, daemon=True).start()
        time.sleep(0.1)
    """
    for start_method in ("template", "fork"):
        for _ in range(4):
            result = run_script(program, args=[call, start_method])
            assert result.returncode == 0, result.describe()


def test_the_end_of_the_interpreter_waits_for_daemon_threads_that_pickle(run_script):
    program = """
        import threading, time
        import bireme

        class Slow:
            def __reduce__(self):
                end = time.monotonic() + 1.5
                while time.monotonic() < end:
                    time.sleep(0)
                return int, ()

        def run():
            try:
                while True:
                    pool.apply(abs, (Slow(),))
            except (bireme.BiremeError, ValueError):
                pass

        pool = bireme.Pool(1)
        for _ in range(3):
            threading.Thread(target=run, daemon=True).start()
        time.sleep(0.2)
    """
    run_script(program).check()


def test_a_stopped_template_goes_with_the_caller():
    program = """
        import os, signal, time
        import bireme

        pool = bireme.Pool(1)
        pool.apply(abs, (1,))
        os.kill(pool._client.template_pid(), signal.SIGSTOP)
        print("stopped", flush=True)
        time.sleep(3600)
    """
    with Script(program) as script:
        script.wait_for_output("stopped")
        os.kill(script.pid, signal.SIGKILL)
        result = script.wait(timeout=10, grace=10)
        assert not result.survivors, result.describe()


def test_ended_pools_hold_no_descriptors(run_script, start_method):
    run_script(
        """
        import resource, sys
        import bireme

        if __name__ == "__main__":
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            for _ in range(40):
                with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                    assert pool.map(abs, range(10), 1) == list(range(10))
        """,
        args=[start_method],
    ).check()
