"""`os.fork` and `exec` around a live pool, in the caller and in a task, under `-W error`."""

from __future__ import annotations

import time

import pytest

import bireme
from tests.integration import tasks
from tests.support.scripts import WITH_TASKS
from tests.support.waiting import GENEROUS

_STRICT = ("-W", "error")


def test_the_childs_use_raises_and_the_parents_pool_lives(run_script, start_method):
    run_script(
        """
        import os, sys
        import bireme
        from tests.integration import tasks

        if __name__ == "__main__":
            with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
                running = pool.apply_async(tasks.slow, ("parent's", 1.0))
                done = pool.apply_async(tasks.square, (3,))
                done.wait()
                child = os.fork()
                if child == 0:
                    wrong = []
                    for name, call in dict(
                        apply=lambda: pool.apply(tasks.square, (1,)),
                        submit=lambda: pool.apply_async(tasks.square, (1,)),
                        map=lambda: pool.map(tasks.square, [1]),
                        imap=lambda: next(pool.imap(tasks.square, [1])),
                        get=lambda: running.get(5),
                        wait=lambda: running.wait(5),
                        close=pool.close, terminate=pool.terminate, join=pool.join,
                    ).items():
                        try:
                            call()
                            wrong.append(name)
                        except bireme.ForkedError:
                            pass
                        except BaseException as error:
                            wrong.append(f"{name}: {error!r}")
                    if wrong:
                        print(wrong, file=sys.stderr, flush=True)
                    os._exit(1 if wrong else 0)
                assert os.waitpid(child, 0)[1] == 0
                assert running.get(30) == "parent's"
                assert done.get(30) == 9
                assert pool.map(tasks.square, range(50)) == [x * x for x in range(50)]
        """,
        args=[start_method],
        env=WITH_TASKS,
        interpreter_args=_STRICT,
    ).check()


@pytest.mark.parametrize(
    "end", ["sys.exit(0)", "del pool; gc.collect(); sys.exit(0)", "os._exit(0)"]
)
def test_a_child_that_ends_ends_nothing_else(run_script, start_method, end):
    """Its exit handlers and destructors must not end the parent's pool, nor wait for it."""
    run_script(
        f"""
        import gc, os, sys
        import bireme
        from tests.integration import tasks

        if __name__ == "__main__":
            pool = bireme.Pool(2, start_method=sys.argv[1])
            pids = tasks.workers_of(pool)
            running = pool.apply_async(tasks.slow, (1, 0.5))
            for _ in range(3):
                child = os.fork()
                if child == 0:
                    {end}
                assert os.waitpid(child, 0)[1] == 0
            assert running.get(30) == 1
            assert pool.map(tasks.square, range(50)) == [x * x for x in range(50)]
            assert tasks.workers_of(pool) == pids
            pool.terminate()
            pool.join()
        """,
        args=[start_method],
        env=WITH_TASKS,
        interpreter_args=_STRICT,
    ).check()


def test_a_child_may_have_its_own_pool(run_script, start_method):
    run_script(
        """
        import os, sys
        import bireme
        from tests.integration import tasks

        if __name__ == "__main__":
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                assert pool.apply(tasks.square, (2,)) == 4
                child = os.fork()
                if child == 0:
                    with bireme.Pool(1, start_method=sys.argv[1]) as own:
                        right = own.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
                    own.join()
                    os._exit(0 if right else 1)
                assert os.waitpid(child, 0)[1] == 0
                assert pool.apply(tasks.square, (3,)) == 9
        """,
        args=[start_method],
        env=WITH_TASKS,
        interpreter_args=_STRICT,
    ).check()


def test_results_viewed_by_a_forked_child_stay_whole(run_script):
    """The child looks at an array that the parent drops: its pages must not be recycled."""
    pytest.importorskip("numpy")
    run_script(
        """
        import os, signal, time
        import numpy
        import bireme
        from tests.integration import tasks

        with bireme.Pool(1) as pool:
            array = pool.apply(tasks.full, (300_000, 7))
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                os.read(read, 1)
                os._exit(0 if (array == 7).all() else 1)
            del array
            for i in range(50):
                assert pool.apply(tasks.full, (300_000, i))[0] == i
            os.write(write, b"x")
            assert os.waitpid(child, 0)[1] == 0
        """,
        env=WITH_TASKS,
        interpreter_args=_STRICT,
    ).check()


def test_the_standard_library_may_fork_beside_us(run_script, start_method):
    """`subprocess` and `multiprocessing` with a live pool."""
    run_script(
        """
        import multiprocessing, subprocess, sys
        import bireme
        from tests.integration import tasks

        if __name__ == "__main__":
            with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                result = pool.map_async(tasks.slow, range(20), 1)
                assert subprocess.run(["echo", "x"], capture_output=True, check=True).stdout == b"x\\n"
                for method in ("fork", "spawn"):
                    context = multiprocessing.get_context(method)
                    with context.Pool(1) as other:
                        assert other.map(tasks.square, [3]) == [9]
                    other.join()
                assert result.get(30) == list(range(20))
        """,
        args=[start_method],
        env=WITH_TASKS,
        interpreter_args=_STRICT,
    ).check()


def test_fork_in_a_task(run_script, start_method):
    """A child that leaves the task function ends there; only the worker answers, once."""
    run_script(
        """
        import os, sys
        import bireme
        from tests.integration import tasks

        if __name__ == "__main__":
            with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                assert pool.map(tasks.fork_and_reap, range(20), 1) == ["parent"] * 20
                assert pool.map(tasks.fork_and_both_return, range(20), 1) == ["parent"] * 20
                assert pool.map(tasks.fork_and_child_raises, range(6), 1) == ["parent"] * 6
                assert pool.map(tasks.square, range(50)) == [x * x for x in range(50)]
        """,
        args=[start_method],
        env=WITH_TASKS,
        interpreter_args=_STRICT,
    ).check()


def test_the_standard_library_may_fork_in_a_task(run_script, start_method):
    run_script(
        """
        import sys
        import bireme
        from tests.integration import tasks

        if __name__ == "__main__":
            with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                assert pool.map(tasks.use_subprocess, range(4), 1) == ["out"] * 4
                assert pool.map(tasks.use_multiprocessing, range(4), 1) == [9] * 4
        """,
        args=[start_method],
        env=WITH_TASKS,
        interpreter_args=_STRICT,
    ).check()


def test_exec_in_a_task(run_script, start_method):
    """The worker is another program now: the task is lost, and the program does not stay."""
    run_script(
        """
        import sys
        import bireme
        from tests.integration import tasks

        if __name__ == "__main__":
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                for program in ("import time; time.sleep(3600)", "pass", "raise SystemExit(4)"):
                    try:
                        pool.apply_async(tasks.become, (program,)).get(30)
                    except bireme.WorkerDiedError:
                        pass
                    else:
                        raise AssertionError("nothing was raised")
                    assert pool.apply(tasks.square, (3,)) == 9
        """,
        args=[start_method],
        env=WITH_TASKS,
        interpreter_args=_STRICT,
    ).check()


_AFTER_EXEC = """
    import os, sys
    from tests.support.processes import is_alive
    from tests.support.waiting import poll
    pids = [int(pid) for pid in sys.argv[1:]]
    assert len(pids) == 2
    assert poll(lambda: not any(map(is_alive, pids)), timeout=10), "workers stay"
    inherited = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3, 30) if os.path.exists(f"/proc/self/fd/{fd}")]
    assert not inherited, inherited
"""


def test_exec_in_the_caller(run_script, start_method):
    """The pool's processes end, though the caller's pid lives on; no descriptor is handed down."""
    run_script(
        """
        import os, sys
        import bireme
        from tests.integration import tasks

        if __name__ == "__main__":
            pool = bireme.Pool(2, start_method=sys.argv[1])
            running = pool.map_async(tasks.slow, [3600] * 2, 1)
            os.execv(sys.executable, [sys.executable, "after.py", *map(str, tasks.workers_of(pool))])
        """,
        args=[start_method],
        env=WITH_TASKS,
        interpreter_args=_STRICT,
        modules={"after.py": _AFTER_EXEC},
    ).check()


def test_fork_with_live_threads_names_them(run_script):
    """Asking for `fork` while other threads live says which."""
    result = run_script("""
        import threading, warnings
        import bireme

        gate = threading.Event()
        thread = threading.Thread(target=gate.wait, name="the-reader-thread")
        thread.start()
        try:
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                try:
                    with bireme.Pool(1, start_method="fork") as pool:
                        pool.apply(abs, (-1,))
                    told = " ".join(str(w.message) for w in seen)
                except bireme.BiremeError as error:
                    told = str(error)
            assert "the-reader-thread" in told, told
        finally:
            gate.set()
    """).check()
    assert result.returncode == 0


def test_fork_while_a_lazy_map_reads_names_its_reader(run_script):
    """It is counted while it reads only: what is not needed any more has no thread."""
    run_script("""
        import queue, time, warnings
        import bireme

        def told():
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                warnings.simplefilter("ignore", DeprecationWarning)
                bireme.Pool(1, start_method="fork").terminate()
            return [str(warning.message) for warning in seen if warning.category is RuntimeWarning]

        items = queue.Queue()
        with bireme.Pool(1, name="lazy") as pool:
            it = pool.imap(abs, iter(items.get, 0))
            items.put(-1)
            assert next(it) == 1
            assert ["(the reader of an imap of 'lazy')" in line for line in told()] == [True]
            items.put(0)
            assert list(it) == []
            deadline = time.monotonic() + 30
            while told() and time.monotonic() < deadline:
                pass
            assert told() == []
    """).check()


def test_fork_with_threads_that_have_no_name_counts_them(run_script):
    """Threads of `_thread` are counted; bireme's own, and those of libraries, are no reason to warn."""
    run_script("""
        import _thread, time, warnings
        try:
            import numpy  # its BLAS has threads
        except ImportError:
            pass
        import bireme

        def told():
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                warnings.simplefilter("ignore", DeprecationWarning)
                with bireme.Pool(1, start_method="fork") as pool:
                    pool.apply(abs, (-1,))
            return [str(warning.message) for warning in seen]

        bireme.map(abs, range(3), inline=False)
        with bireme.Pool(1) as pool:
            pool.apply_async(abs, (-1,), callback=print).get(30)
            assert told() == []
            before = _thread._count()
            gate = _thread.allocate_lock()
            gate.acquire()
            for _ in range(2):
                _thread.start_new_thread(gate.acquire, ())
            while _thread._count() < before + 2:
                time.sleep(0.01)
            (text,) = told()
            assert "2 without a name, started by `_thread`" in text, text
    """).check()


def test_forks_of_several_threads_leave_the_pool_supervised(run_script, start_method):
    """Each stops the pool's threads for a moment; after the last one somebody watches again."""
    run_script(
        """
        import os, sys, threading
        import bireme
        from tests.integration import tasks

        def fork_often():
            for _ in range(40):
                child = os.fork()
                if child == 0:
                    os._exit(0)
                os.waitpid(child, 0)

        if __name__ == "__main__":
            with bireme.Pool(2, start_method=sys.argv[1], maxtasksperchild=1) as pool:
                forkers = [threading.Thread(target=fork_often) for _ in range(2)]
                for forker in forkers:
                    forker.start()
                while any(forker.is_alive() for forker in forkers):
                    results = [pool.apply_async(tasks.square, (x,)) for x in range(6)]
                    assert [r.get(30) for r in results] == [0, 1, 4, 9, 16, 25]
                assert pool.map(tasks.square, range(8)) == [x * x for x in range(8)]
        """,
        args=[start_method],
        env=WITH_TASKS,
        interpreter_args=("-W", "ignore::DeprecationWarning", "-W", "ignore::RuntimeWarning"),
    ).check()


@pytest.mark.parametrize("method", ["template", "fork", "spawn"])
def test_a_child_has_pools_whatever_other_threads_did_at_the_fork(run_script, method):
    """They start templates, and end pools: all that with locks of which the child has copies."""
    run_script(
        """
        import os, sys, threading
        import bireme

        def churn():
            while not stop.is_set():
                pool = bireme.Pool(1, start_method=sys.argv[1])
                pool.apply_async(abs, (-1,))
                if dropped:
                    del pool
                else:
                    pool.terminate()

        if __name__ == "__main__":
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                pool.apply(abs, (-1,))  # what is imported at first is here
            for dropped in (False, True):
                stop = threading.Event()
                threads = [threading.Thread(target=churn) for _ in range(3)]
                for thread in threads:
                    thread.start()
                for _ in range(40):
                    child = os.fork()
                    if child == 0:
                        with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                            os._exit(pool.apply_async(abs, (-3,)).get(60))
                    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
                stop.set()
                for thread in threads:
                    thread.join()
        """,
        args=[method],
        interpreter_args=("-W", "ignore"),
    ).check()


def test_no_worker_is_forked_while_a_module_is_half_imported(run_script):
    """In the child it would stay so for ever: nobody there imports the other half."""
    run_script(
        """
        import importlib, sys
        import bireme

        def last(_):
            module = sys.modules.get("slow_to_import")
            return module is None or hasattr(module, "LAST")

        if __name__ == "__main__":
            with bireme.Pool(1, start_method="fork", maxtasksperchild=1) as pool:
                for _ in range(30):
                    results = [pool.apply_async(last, (i,)) for i in range(4)]
                    sys.modules.pop("slow_to_import", None)
                    importlib.import_module("slow_to_import")
                    assert all([result.get(30) for result in results])
        """,
        modules={"slow_to_import.py": "import time; time.sleep(0.02); LAST = 1"},
        env=WITH_TASKS,
    ).check()


def test_a_fork_in_a_task_that_has_closed_all_descriptors(run_script):
    """As daemons do: what is needed afterwards is gone, and the caller is told so."""
    run_script(
        """
        import os
        import bireme

        def close_all_and_fork():
            os.closerange(3, 256)
            child = os.fork()
            if child == 0:
                os._exit(0)
            return os.waitpid(child, 0)[1]

        with bireme.Pool(1) as pool:
            try:
                assert pool.apply_async(close_all_and_fork).get(30) == 0
            except bireme.WorkerDiedError:
                pass
            assert pool.apply_async(abs, (-1,)).get(30) == 1
        """
    ).check()


def test_a_fork_with_a_live_pool_while_a_result_is_unpickled(run_script):
    """The thread that unpickles it is not in the child, which must not wait for it."""
    run_script("""
        import os, sys, threading
        import bireme

        class Slow:
            def __setstate__(self, state):
                sys.begun.set()
                sys.over.wait(60)

            def __reduce__(self):
                return Slow, (), {}

        begun, over = sys.begun, sys.over = threading.Event(), threading.Event()
        with bireme.Pool(1) as pool:
            result = pool.apply_async(Slow)
            thread = threading.Thread(target=result.get)
            thread.start()
            begun.wait(60)
            child = os.fork()
            if child == 0:
                try:
                    result.get(timeout=60)
                except bireme.ForkedError:
                    os._exit(7)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            over.set()
            thread.join()
            assert type(result.get()) is Slow
    """).check()


def test_forked_workers_of_a_pool_in_a_task(make_pool):
    """They are workers, and no forks that leave with the task."""
    pool = make_pool(1)
    for _ in range(3):
        assert pool.apply(tasks.use_forked_pool, (40,)) == [x * x for x in range(40)]
    assert pool.apply(tasks.square, (3,)) == 9


# A signal that arrives while Python runs the hooks of a fork: its handler runs at the first instruction of
# a hook in Python, and what it raises there is lost with the rest of that hook.
_SIGNAL_AMID = """
    import ctypes, functools, os, signal
    raise_signal = getattr(ctypes.CDLL(None), "raise")
    os.register_at_fork(**{when: functools.partial(raise_signal, signal.SIGUSR1)})
"""


def test_a_signal_amid_the_fork_of_a_task(run_script):
    """The child is no worker, and leaves when the task's function returns."""
    run_script(
        """
        import os, signal, time
        import bireme

        class Alarm(Exception):
            pass

        def ring(*_):
            raise Alarm

        def work():
            signal.signal(signal.SIGUSR1, ring)
            import amid
            try:
                child = os.fork()
            except Alarm:
                child = 0
            if child:
                os.waitpid(child, 0)
            return os.getpid()

        with bireme.Pool(1) as pool:
            workers = [pool.apply(os.getpid)]
            assert [pool.apply(work) for _ in range(5)] == workers * 5
            assert pool.worker_pids() == workers
        """,
        modules={"amid.py": _SIGNAL_AMID.replace("when", '"after_in_child"')},
    ).check()


def test_a_signal_amid_a_fork_of_the_caller(run_script):
    """The pool's threads run again: deaths and time limits are seen to."""
    run_script(
        """
        import os, signal, time
        import bireme
        import amid

        class Alarm(Exception):
            pass

        def ring(*_):
            raise Alarm

        with bireme.Pool(2) as pool:
            pool.apply(abs, (1,))
            signal.signal(signal.SIGUSR1, ring)
            try:
                child = os.fork()
                if child == 0:
                    os._exit(0)
                os.waitpid(child, 0)
            except Alarm:
                pass
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            for task, args, kind in (
                (os._exit, (3,), bireme.WorkerDiedError),
                (time.sleep, (60,), bireme.TaskTimeoutError),
            ):
                try:
                    pool.options(task_timeout=1).apply_async(task, args).get(30)
                except kind:
                    continue
                raise AssertionError(task)
        """,
        modules={"amid.py": _SIGNAL_AMID.replace("when", '"after_in_parent"')},
    ).check()


def test_a_task_that_forks_all_the_time_is_cancelled_politely(make_pool, capfd):
    pool = make_pool(1)
    worker = [pool.apply(tasks.pid)]  # it has imported the tasks: no import is cut short
    for _ in range(40):
        result = pool.apply_async(tasks.fork_for_ever)
        time.sleep(0.005)
        result.cancel(running=True)
        with pytest.raises(bireme.CancelledError):
            result.get(GENEROUS)
    assert pool.worker_pids() == worker
    assert capfd.readouterr().err == ""
