"""Programs whose `__main__` no worker can import, or has as it was before: its members go by value."""

from __future__ import annotations

import pytest

ALL = ("template", "fork", "spawn", "forkserver")

_PROGRAM = """
    import sys
    import bireme

    factor = 2

    class Thing:
        def __init__(self, x):
            self.x = x

    def init(value):
        global factor
        factor = value

    def work(thing):
        return Thing(thing.x * factor)

    if __name__ == "__main__":
        with bireme.Pool(1, init, (5,), start_method=sys.argv[1]) as pool:
            things = pool.map(work, [Thing(1), Thing(2)])
            assert [type(thing) for thing in things] == [Thing, Thing]
            print([thing.x for thing in things], pool.apply(lambda t: work(t).x, (Thing(3),)))
"""


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize(
    "how", ["'-c', text", "'-'", "'-i', 'program.py'", "'-m', 'package'", "'folder'", "'gone.py'"]
)
def test_functions_of_a_program_that_no_worker_imports(run_script, method, how):
    run_script(
        f"""
        import os, subprocess, sys, textwrap
        text = open("program.py").read()
        for folder in ("package", "folder"):
            os.mkdir(folder)
            open(folder + "/__main__.py", "w").write(text)
        open("package/__init__.py", "w").close()
        open("gone.py", "w").write("import os; os.unlink('gone.py')\\n" + text)
        command = [sys.executable, {how}, {method!r}]
        given = "" if "-i" in command else text
        out = subprocess.run(command, input=given, capture_output=True, text=True, timeout=50)
        assert out.stdout.strip() == "[5, 10] 15", out
        """,
        modules={"program.py": _PROGRAM},
    ).check()


_TYPED = """
    import bireme
    def work(x):
        return x * step

    step = 2
    pool = bireme.Pool(1, start_method=method)
    assert pool.map(work, [1, 2]) == [2, 4]
    def later(x):
        return work(x) + step

    step = 10
    assert pool.map(later, [1]) == [20]
    first = work
    def work(x):
        return "new", step

    assert pool.map(work, [1]) == [("new", 10)]
    class Thing:
        size = 1

    class Thing:
        size = 2

    def size(thing):
        return thing.size, Thing.size, type(thing) is Thing, thing

    two = Thing()
    two.size = 3
    answer = pool.apply(size, (two,))
    assert answer[:3] == (3, 2, True) and type(answer[3]) is Thing
    del step
    try: pool.map(work, [1])
    except NameError as error: print(error)

    pool.terminate(); pool.join()
    print("typed")
"""


@pytest.mark.parametrize("method", ALL)
def test_what_is_typed_after_the_pool_was_made(run_script, method):
    result = run_script(
        """
        import subprocess, sys, textwrap
        text = f"method = {sys.argv[1]!r}\\n" + open("typed.py").read()
        command = [sys.executable, "-i", "-q"]
        out = subprocess.run(command, input=text, capture_output=True, text=True, timeout=50)
        assert "Traceback" not in out.stderr, out.stderr
        print(out.stdout)
        """,
        args=[method],
        modules={"typed.py": _TYPED},
    ).check()
    assert result.stdout.split("\n")[:2] == ["name 'step' is not defined", "typed"]


def test_a_fork_is_sent_what_was_bound_since(run_script):
    """What it has is not sent: that may be large, or nothing that can be pickled."""
    run_script("""
        import threading
        import bireme

        lock, table, rate, kept = threading.Lock(), {1: "one"}, 1, [0]

        def look_up(n):
            with lock:
                return table[n], rate

        def init():
            global kept
            kept = ["the worker's"]

        with bireme.Pool(1, init, start_method="fork") as pool:
            assert pool.apply(look_up, (1,)) == ("one", 1)
            assert pool.apply(lambda: (lock.locked(), table, kept)) == (False, {1: "one"}, ["the worker's"])
            rate = 2
            assert pool.apply(lambda: (rate, look_up(1))) == (2, ("one", 2))
            old = look_up

            def look_up(n):
                return old(n), "anew"

            assert pool.apply(look_up, (1,)) == (("one", 2), "anew")
            assert pool.apply(old, (1,)) == ("one", 2)
            rate = 1
            assert pool.apply(lambda: rate) == 1, "back at what it was at the fork"
            del rate
            try:
                pool.apply(lambda: rate)
            except NameError:
                pass
            else:
                raise AssertionError("the worker has it still")
    """).check()


def test_a_fork_made_later_is_right_too(run_script):
    """It has the names as they were at its own birth."""
    run_script("""
        import os
        import bireme

        rate, other = [1], 5

        def work():
            return rate, other

        with bireme.Pool(1, start_method="fork", maxtasksperchild=2) as pool:
            first = rate
            rate = [2]
            pids = {pool.apply(os.getpid) for _ in range(5)}
            assert len(pids) > 1
            rate = first
            for _ in range(5):
                assert pool.apply(lambda: (rate, other)) == ([1], 5)
            old = work

            def work():
                return "new"

            for _ in range(5):
                assert pool.apply(old) == ([1], 5)
                assert pool.apply(work) == "new"
    """).check()


def test_a_worker_of_the_template_has_no_names_of_its_own(run_script):
    run_script("""
        import bireme

        def main():
            return "the script's"

        def work():
            return main(), sys

        sys = "not the module"
        with bireme.Pool(1) as pool:
            assert pool.apply(work) == ("the script's", "not the module")
    """).check()
