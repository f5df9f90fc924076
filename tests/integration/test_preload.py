"""What the template imports for its workers, and what becomes of a template that cannot serve."""

from __future__ import annotations

import importlib.util

import pytest

import bireme
from tests.support.scripts import WITH_TASKS

# Makes a pool whose workers cannot come; tells what its first use raised.
_FAILING = """
    import sys
    import bireme

    with bireme.Pool(2, preload=sys.argv[1:]) as pool:
        try:
            pool.apply(abs, (-1,))
        except bireme.InitializerError as error:
            print(error)
"""


@pytest.mark.parametrize("preload", ["json", b"name", 5, None, ["json", 5]])
def test_preload_is_a_sequence_of_names(preload):
    with pytest.raises(TypeError, match="preload must be a sequence of module names") as caught:
        bireme.Pool(1, preload=preload)
    assert repr(preload) in str(caught.value)


def test_modules_beside_the_script_are_preloaded(run_script):
    """They are found by the caller's path, from whatever folder the program was started."""
    result = run_script(
        """
        import os, sys
        import bireme

        def seen():
            import counted
            return counted.pid, os.getppid(), os.getpid(), "json" in sys.modules

        os.mkdir("below")
        os.chdir("below")
        with bireme.Pool(2, preload=iter(["counted", "json"])) as pool:
            for pid, template, worker, json_too in pool.starmap(seen, [()] * 8, 1):
                assert pid == template != worker
                assert json_too
        """,
        modules={
            "counted.py": """
                import os, sys
                pid = os.getpid()
                print("imported", file=sys.stderr)
            """
        },
    ).check()
    assert result.stderr == "imported\n"


def test_a_module_that_is_not_there_is_named(run_script):
    result = run_script(_FAILING, args=["json", "no_such_module"]).check()
    assert "preload names 'no_such_module'" in result.stdout
    assert "ModuleNotFoundError: No module named 'no_such_module'" in result.stdout
    assert result.tracebacks == 0
    assert result.stderr == ""


def test_a_module_that_raises_is_named_with_its_traceback(run_script):
    modules = {"wrong.py": "def fail():\n    return {}['nothing']\n\nfail()\n"}
    result = run_script(_FAILING, args=["wrong"], modules=modules).check()
    assert "preload names 'wrong'" in result.stdout
    assert "KeyError: 'nothing'" in result.stdout
    assert "in fail" in result.stdout
    assert result.tracebacks == 1
    assert result.stderr == ""


def test_a_later_pool_tries_again(run_script):
    """The template that could not import it is not kept."""
    run_script("""
        import pathlib
        import bireme

        def work():
            with bireme.Pool(1, preload=["late"]) as pool:
                return pool.apply(abs, (-1,))

        try:
            work()
            raise SystemExit("nothing was raised")
        except bireme.InitializerError:
            pathlib.Path("late.py").touch()
        assert work() == 1
    """).check()


_STARTS_A_THREAD = """
    import threading, time
    threading.Thread(target=time.sleep, args=({seconds},), daemon=True).start()
"""


def test_a_module_that_starts_threads_is_named(run_script):
    modules = {"starter.py": _STARTS_A_THREAD.format(seconds=3600)}
    result = run_script(_FAILING, args=["json", "starter"], modules=modules).check()
    assert "the template has 2 threads" in result.stdout
    assert "('starter')" in result.stdout
    assert "leave it out of preload" in result.stdout


def test_a_thread_that_ends_soon_is_waited_for(run_script):
    modules = {"starter.py": _STARTS_A_THREAD.format(seconds=0.3)}
    result = run_script(_FAILING, args=["starter"], modules=modules).check()
    assert result.stdout == ""


def test_a_template_that_ends_is_not_a_matter_of_limits(run_script):
    modules = {
        "last.py": """
            import os, sys
            print("never again", file=sys.stderr, flush=True)
            os._exit(3)
        """
    }
    result = run_script(_FAILING, args=["last"], modules=modules).check()
    assert "the template process" in result.stdout
    assert "exit code 3" in result.stdout
    assert "its last words: never again" in result.stdout
    assert "RLIMIT" not in result.stdout


def test_a_signal_that_ends_the_template_is_named(run_script):
    modules = {"last.py": "import ctypes\nctypes.string_at(0)\n"}
    result = run_script(_FAILING, args=["last"], modules=modules).check()
    assert "signal 11 killed it" in result.stdout


@pytest.mark.parametrize("preload", [(), ("json",)])
def test_templates_that_somebody_kills_are_nobodys_initializer(run_script, preload):
    """Nor a matter of limits, whatever the client was just asking of them."""
    result = run_script(
        """
        import sys, threading, time
        import bireme
        from tests.support.processes import kill_descendant

        def kill_templates():
            while not calm.is_set():
                kill_descendant(pool._client.template_pid())
                time.sleep(0.001)

        def outcome():
            try:
                return pool.apply(abs, (-1,))
            except Exception as error:
                return error

        calm = threading.Event()
        with bireme.Pool(1, preload=sys.argv[1:]) as pool:
            assert outcome() == 1
            killer = threading.Thread(target=kill_templates)
            killer.start()
            for _ in range(3):
                while (failure := outcome()) == 1:
                    pass
                print(type(failure).__name__, failure)
            calm.set()
            killer.join()
            while outcome() != 1:  # the last one to be killed may be on its way still
                pass
        """,
        args=preload,
        env=WITH_TASKS,
    ).check()
    told = "WorkerDiedError the template process is killed again and again (signal 9)"
    assert all(line.startswith(told) for line in result.stdout.splitlines())
    assert result.stdout.count("the pool goes on trying") == 3
    assert result.stdout.count("or what is preloaded") == (3 if preload else 0)


@pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="needs NumPy")
@pytest.mark.parametrize("own", [None, "3"])
def test_preloaded_blas_starts_no_threads_in_the_template(run_script, own):
    """And a worker gets its share all the same, or what the user set."""
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]
    run_script(
        """
        import os, sys
        import bireme

        def threads():
            import numpy, threadpoolctl
            libraries = threadpoolctl.threadpool_info()
            counts = {library["num_threads"] for library in libraries}
            with open(f"/proc/{os.getppid()}/status") as status:
                alone = "Threads:\\t1\\n" in status
            return alone, counts, os.environ["OPENBLAS_NUM_THREADS"]

        wanted = int(sys.argv[1])
        with bireme.Pool(1 if wanted > 1 else bireme.cpu_count(), preload=["numpy"]) as pool:
            assert pool.apply(threads) == (True, {wanted}, str(wanted)), pool.apply(threads)
        """,
        args=[own or "1"],
        env={**dict.fromkeys(names), "OPENBLAS_NUM_THREADS": own},
    ).check()


def test_templates_of_pools_long_gone_are_given_up(run_script):
    """Not that of a living pool, which has all that it had."""
    run_script(
        """
        import os
        import psutil
        import bireme
        from tests.support.waiting import poll

        def living():
            children = psutil.Process().children()
            return {child.pid for child in children if child.status() != psutil.STATUS_ZOMBIE}

        with bireme.Pool(1, preload=("ast",)) as first:
            template = first.apply(os.getppid)
            for name in ("json", "csv", "decimal", "uuid", "string", "shlex", "queue", "heapq"):
                with bireme.Pool(1, preload=(name,)) as pool:
                    last = pool.apply(os.getppid)
            assert poll(lambda: len(living()) <= 5), living()
            assert {template, last} <= living()
            try:
                first.apply(os._exit, (3,))
            except bireme.WorkerDiedError:
                pass
            assert first.apply(os.getppid) == template
        with bireme.Pool(1, preload=("heapq",)) as pool:
            assert pool.apply(os.getppid) == last
        assert poll(lambda: template not in living())
        """,
        env=WITH_TASKS,
    ).check()
