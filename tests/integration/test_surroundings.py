"""The worker's surroundings are the caller's, wherever the caller's code comes from."""

from __future__ import annotations

import os

import psutil
import pytest

ALL = ("template", "fork", "spawn", "forkserver")

_SURROUNDINGS = """
    import locale, os, resource, sys, warnings
    import bireme

    def umask():
        for line in open("/proc/self/status"):
            if line.startswith("Umask"):
                return line.split()[1]

    def surroundings():
        main = sys.modules["__main__"]
        return dict(
            argv=sys.argv,
            path=sys.path,
            cwd=os.getcwd(),
            variable=os.environ.get("A_VARIABLE"),
            threads=os.environ.get("OMP_NUM_THREADS"),
            flags=(sys.flags.optimize, sys.flags.dev_mode, sys.flags.utf8_mode),
            x=sys._xoptions.get("a_key"),
            prefix=sys.prefix,
            executable=sys.executable,
            # what multiprocessing's spawn and forkserver do not carry over:
            umask=umask(),
            recursion=sys.getrecursionlimit(),
            switching=sys.getswitchinterval(),
            digits=sys.get_int_max_str_digits(),
            locale=[locale.setlocale(c) for c in (locale.LC_CTYPE, locale.LC_TIME, locale.LC_NUMERIC)],
            files=resource.getrlimit(resource.RLIMIT_NOFILE),
            filters=[f[:3] for f in warnings.filters],
            file=os.path.basename(getattr(main, "__file__", "")),
            package=main.__package__,
        )

    if __name__ == "__main__":
        os.mkdir("below")
        os.chdir("below")
        os.umask(0o27)
        os.environ["A_VARIABLE"] = "set late"
        os.environ["OMP_NUM_THREADS"] = "7"
        sys.path.insert(0, "/somewhere/else")
        sys.argv.append("extra")
        sys.setrecursionlimit(3210)
        sys.setswitchinterval(0.25)
        sys.set_int_max_str_digits(5000)
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
        resource.setrlimit(resource.RLIMIT_NOFILE, (777, 888))
        warnings.simplefilter("error", FutureWarning)
        here = surroundings()
        with bireme.Pool(1, start_method=sys.argv[1]) as pool:
            there = pool.apply(surroundings)
        names = list(here)
        if sys.argv[1] in ("spawn", "forkserver"):
            names = names[:names.index("umask")]
        for name in names:
            if here[name] != there[name]:
                sys.exit(f"{name}: {here[name]} here, {there[name]} there")
"""


@pytest.mark.parametrize("method", ALL)
def test_the_worker_sees_the_callers_surroundings(run_script, method):
    options = ["-O", "-X", "a_key=value", "-W", "error::UserWarning"]
    run_script(_SURROUNDINGS, args=[method, "--flag"], interpreter_args=options).check()


def test_a_later_pool_sees_later_surroundings(run_script):
    """A standing template must not freeze the surroundings of the first pool."""
    run_script("""
        import os, sys
        import bireme

        def look():
            return os.getcwd(), os.environ.get("A_VARIABLE"), "/added" in sys.path, sys.argv[1:]

        def seen():
            with bireme.Pool(1) as pool:
                return pool.apply(look)

        first = seen()
        os.mkdir("below")
        os.chdir("below")
        os.environ["A_VARIABLE"] = "late"
        sys.path.append("/added")
        sys.argv.append("late")
        assert seen() == look() != first, (first, seen(), look())
    """).check()


def test_warnings_in_a_task_obey_the_callers_filters(run_script):
    result = run_script("""
        import warnings
        import bireme

        def warn(category):
            warnings.warn("from a task", category)
            return "warned"

        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        with bireme.Pool(1) as pool:
            assert pool.apply(warn, (UserWarning,)) == "warned"
            try:
                pool.apply(warn, (FutureWarning,))
            except FutureWarning as error:
                assert str(error) == "from a task"
            else:
                raise AssertionError("the filter did not travel")
    """).check()
    assert result.stderr == ""


@pytest.mark.parametrize("method", ALL)
def test_filters_on_categories_that_are_not_builtin(run_script, method):
    """One is of a module that no worker has loaded, one of the script; both keep their place in the order."""
    result = run_script(
        """
        import sys, warnings
        import bireme
        import slow_to_import

        class Mine(UserWarning):
            pass

        class Derived(Mine):
            pass

        def loaded():
            return "slow_to_import" in sys.modules

        def raised(category):
            try:
                warnings.warn("from a task", category)
            except Warning as warning:
                return type(warning).__name__
            return None

        def raised_theirs():
            import slow_to_import
            return raised(slow_to_import.Theirs)

        def pool_in_a_task():
            with bireme.Pool(1) as pool:
                return pool.apply(raised_theirs), pool.apply(raised, (Derived,))

        if __name__ == "__main__":
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("error", Mine)
            warnings.simplefilter("error", slow_to_import.Theirs)
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                if sys.argv[1] == "template":
                    assert not pool.apply(loaded)
                assert pool.apply(raised_theirs) == "Theirs"
                assert pool.apply(raised, (UserWarning,)) is None
                assert pool.apply(raised, (Mine,)) == "Mine"
                assert pool.apply(raised, (Derived,)) == "Derived"
                if sys.argv[1] == "template":
                    assert pool.apply(pool_in_a_task) == ("Theirs", "Derived")
        """,
        args=[method],
        modules={"slow_to_import.py": "class Theirs(Warning):\n    pass\n"},
    ).check()
    assert result.stderr == ""


def test_the_default_pool_follows_the_filters(run_script):
    run_script("""
        import warnings
        import bireme

        def raised(_):
            try:
                warnings.warn("from a task", UserWarning)
            except UserWarning:
                return True
            return False

        def answers():
            return set(bireme.map(raised, range(4), inline=False))

        warnings.simplefilter("ignore")
        assert answers() == {False}
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert answers() == {True}
        assert answers() == {False}
    """).check()


_HOSTILE = "raise SystemExit('a module of the working folder was imported: ' + __file__)\n"


@pytest.mark.parametrize("method", ALL)
def test_modules_in_the_working_folder_hide_none(run_script, method):
    """The working folder is not on the caller's path, so nobody may import from there."""
    names = ["linecache", "pickle", "signal", "faulthandler", "weakref", "runpy", "bireme"]
    result = run_script(
        """
        import os, sys
        import bireme

        def work(number):
            import runpy
            return number + 1, "" in sys.path or os.getcwd() in sys.path

        if __name__ == "__main__":
            if not os.path.exists("below"):
                os.mkdir("below")
                for name in sys.argv[3:]:
                    with open(f"below/{name}.py", "w") as file:
                        file.write(sys.argv[2])
            os.chdir("below")
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                assert pool.apply(work, (1,)) == (2, False)
            with bireme.Pool(1, preload=["runpy"]) as pool:
                assert pool.apply(work, (1,)) == (2, False)
        """,
        args=[method, _HOSTILE, *names],
    ).check()
    assert result.stderr == ""


@pytest.mark.parametrize("options", [[], ["-P"]])
def test_a_safe_path_stays_one(run_script, options):
    """`-P` keeps the script's folder off the path, here and there; without it, it is on both."""
    run_script(
        """
        import sys
        import bireme

        def importable():
            try:
                import beside
            except ImportError:
                return False
            return True

        with bireme.Pool(1) as pool:
            assert pool.apply(importable) == importable() == (sys.argv[1:] == [])
        """,
        interpreter_args=options,
        args=options,
        modules={"beside.py": ""},
    ).check()


def test_blas_threads_are_capped_to_the_workers_share(run_script):
    """Two workers on n cores get n / 2 threads each; what the user set wins (see above)."""
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]
    run_script(
        """
        import os
        import bireme

        def threads():
            return os.environ.get("OMP_NUM_THREADS"), os.environ.get("OPENBLAS_NUM_THREADS")

        with bireme.Pool(bireme.cpu_count()) as pool:
            assert pool.apply(threads) == ("1", "1"), pool.apply(threads)
        assert threads() == (None, None)
        """,
        env=dict.fromkeys(names),
    ).check()


def test_blas_that_is_loaded_already_is_capped_in_forked_workers(run_script):
    """It has read its variables in the caller, so it is told by threadpoolctl."""
    pytest.importorskip("numpy")
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]
    run_script(
        """
        import numpy, threadpoolctl
        import bireme

        def threads():
            return {library["num_threads"] for library in threadpoolctl.threadpool_info()}

        with bireme.Pool(bireme.cpu_count(), start_method="fork") as pool:
            assert pool.apply(threads) == {1}
        """,
        env=dict.fromkeys(names),
        interpreter_args=["-W", "error"],
    ).check()


def test_modules_beside_the_script(run_script):
    run_script(
        """
        import bireme
        import helper

        def work(x):
            return helper.double(x) + 1

        with bireme.Pool(2) as pool:
            assert pool.map(work, range(5)) == [1, 3, 5, 7, 9]
            assert pool.map(helper.double, range(5)) == [0, 2, 4, 6, 8]
        """,
        modules={"helper.py": "def double(x):\n    return 2 * x\n"},
    ).check()


_PROGRAM = """
    import bireme

    def square(x):
        return x * x

    with bireme.Pool(2) as pool:
        print(pool.map(square, range(3)))
"""


@pytest.mark.parametrize(
    "how",
    ["[sys.executable, '-m', 'program']", "[sys.executable, '-c', text]", "[sys.executable, '-']"],
)
def test_programs_that_are_no_script(run_script, how):
    """`python -m`, `python -c` and a program on standard input."""
    run_script(
        f"""
        import subprocess, sys
        text = open("program.py").read()
        out = subprocess.run({how}, input=text, capture_output=True, text=True, timeout=50)
        assert out.stdout.strip() == "[0, 1, 4]", out
        """,
        modules={"program.py": _PROGRAM},
    ).check()


_CELLS = """
    import code, __main__
    console = code.InteractiveConsole(vars(__main__))
    for line in open("typed.py").read().splitlines():
        console.push(line)
    assert (first, second, third) == ([2, 3, 4], [11, 12, 13], [10, 20, 30])
    assert kept
    assert type(two) is Thing and two.size == 2 and one.size == 1
"""

_TYPED = """
    import bireme
    def work(x):
        return x + step

    step = 1
    pool = bireme.Pool(2)
    first = pool.map(work, [1, 2, 3])
    step = 10
    second = pool.map(work, [1, 2, 3])
    def work(x):
        return x * step

    third = pool.map(work, [1, 2, 3])
    class Thing:
        size = 1

    one = pool.apply(lambda: Thing())
    kept = type(one) is Thing
    class Thing:
        size = 2

    two = pool.apply(lambda: Thing())
    pool.terminate(); pool.join()
"""


def test_functions_typed_at_a_prompt(run_script):
    """The prompt has no file, and a later cell may redefine what an earlier one defined."""
    run_script(_CELLS, modules={"typed.py": _TYPED}).check()


def test_workers_have_readable_titles(make_pool):
    pool = make_pool(1, name="census of code")
    process = psutil.Process(pool.apply(os.getpid))
    assert process.name().startswith("bireme:0:census")
    command = process.cmdline()[0]
    # The line it was started with is written over: after a fork it may be short.
    assert command
    assert "bireme:0:census of code".startswith(command)
