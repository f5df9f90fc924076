"""`bireme.map`, `starmap`, `imap`: one call on a pool that nobody has to manage.

Each test is a program of its own, since the pool belongs to the process.
"""

from __future__ import annotations

import pytest

from tests.support.scripts import WITH_TASKS


def test_values_order_errors(run_script):
    run_script("""
        import itertools, operator
        import bireme

        def square(x):
            return x * x

        def fail_on_three(x):
            if x >= 3:
                raise ValueError(x)
            return x

        for inline in (None, True, False):
            assert bireme.map(square, range(100), inline=inline) == [x * x for x in range(100)]
            assert bireme.map(operator.add, [1, 2, 3], [10, 20, 30], inline=inline) == [11, 22, 33]
            assert bireme.map(operator.add, [1, 2, 3], [10, 20], inline=inline) == [11, 22], "as map()"
            assert bireme.map(square, [], inline=inline) == []
            assert bireme.starmap(operator.sub, [(3, 1), (5, 2)], inline=inline) == [2, 3]
            try:
                bireme.map(fail_on_three, range(10), inline=inline)
            except ValueError as error:
                assert error.args == (3,)
            else:
                raise AssertionError("nothing was raised")
        assert list(itertools.islice(bireme.imap(square, itertools.count()), 5)) == [0, 1, 4, 9, 16]
        assert list(bireme.imap(operator.add, range(3), range(3))) == [0, 2, 4]
        assert bireme.map(square, range(50), workers=2, chunksize=7) == [x * x for x in range(50)]
        assert bireme.map(lambda x: x + 1, (x for x in range(5))) == [1, 2, 3, 4, 5]
    """).check()


def test_one_pool_serves_many_calls(run_script):
    run_script("""
        import os
        import bireme

        def pid(_):
            return os.getpid()

        pids = {p for _ in range(20) for p in bireme.map(pid, range(8), inline=False)}
        assert os.getpid() not in pids
        assert len(pids) <= bireme.cpu_count(), pids
    """).check()


def test_tiny_work_runs_inline_and_says_so(run_script):
    result = run_script("""
        import os
        import bireme

        def pid(_):
            return os.getpid()

        assert bireme.map(pid, range(3), explain=True) == [os.getpid()] * 3
    """).check()
    assert "inline" in (result.stdout + result.stderr).lower()


def test_long_work_does_not_run_inline(run_script):
    run_script("""
        import os, time
        import bireme

        def work(_):
            time.sleep(0.05)
            return os.getpid()

        pids = bireme.map(work, range(10), explain=True)
        assert pids.count(os.getpid()) <= 1, pids
        assert len(set(pids)) > 1
    """).check()


@pytest.mark.parametrize("option", ["task_timeout=30", "retries=1", "seed=1", "inline=False"])
def test_options_that_need_a_worker_get_one(run_script, option):
    run_script(f"""
        import os
        import bireme

        def pid(_):
            return os.getpid()

        assert os.getpid() not in bireme.map(pid, range(3), {option})
    """).check()


def test_seeds_do_not_depend_on_workers(run_script):
    run_script("""
        import random
        import bireme

        def draw(_):
            return random.random()

        first = bireme.map(draw, range(20), seed=1, workers=1)
        assert first == bireme.map(draw, range(20), seed=1, workers=2, chunksize=3)
        assert len(set(first)) == 20
    """).check()


def test_a_death_ends_one_item_and_no_more(run_script):
    run_script("""
        import os
        import bireme

        def work(x):
            if x == 5:
                os._exit(3)
            return x

        for _ in range(3):
            try:
                bireme.map(work, range(10), inline=False, chunksize=1)
            except bireme.WorkerDiedError as error:
                assert error.item == 5 and error.exitcode == 3
            else:
                raise AssertionError("nothing was raised")
            assert bireme.map(work, range(5), inline=False) == list(range(5))
    """).check()


def test_nested_five_deep_on_two_workers(run_script):
    """No deadlock, and no explosion of processes."""
    result = run_script(
        """
        import os, threading, time
        import bireme
        from tests.support.processes import descendants

        def tree(depth):
            if depth == 0:
                time.sleep(0.01)
                return 1
            return sum(bireme.map(tree, [depth - 1] * 2, workers=2, inline=False))

        most, done = 0, threading.Event()

        def watch():
            global most
            while not done.wait(0.02):
                most = max(most, len(descendants(os.getpid())))

        watcher = threading.Thread(target=watch)
        watcher.start()
        total = sum(bireme.map(tree, [5, 5], workers=2, inline=False))
        done.set()
        watcher.join()
        assert total == 64, total
        print(most)
        """,
        env=WITH_TASKS,
        timeout=110,
    ).check()
    assert int(result.stdout) <= 64, "as many processes as leaves would be an explosion"


def test_nested_in_a_pool(run_script, start_method):
    run_script(
        """
        import sys
        import bireme

        def square(x):
            return x * x

        def row(n):
            return bireme.map(square, range(n), inline=False)

        if __name__ == "__main__":
            with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                rows = pool.map(row, [1, 2, 3, 4] * 3, 1)
            assert rows == [[x * x for x in range(n)] for n in [1, 2, 3, 4] * 3]
        """,
        args=[start_method],
    ).check()


def test_a_pool_in_a_task(run_script):
    """`multiprocessing` forbids it: daemonic processes have no children there."""
    run_script("""
        import bireme

        def square(x):
            return x * x

        def inner(n):
            with bireme.Pool(2) as pool:
                return pool.map(square, range(n))

        with bireme.Pool(2) as pool:
            assert pool.map(inner, [2, 3], 1) == [[0, 1], [0, 1, 4]]
    """).check()


def test_it_is_renewed_when_the_surroundings_changed(run_script):
    run_script("""
        import os, sys
        import bireme

        def look(_):
            return os.getcwd(), "/added" in sys.path

        assert bireme.map(look, [1], inline=False) == [look(1)]
        os.mkdir("below")
        os.chdir("below")
        sys.path.append("/added")
        assert bireme.map(look, [1], inline=False) == [look(1)] == [(os.getcwd(), True)]
    """).check()


def test_a_program_may_end_at_once(run_script):
    """At exit the pool goes away, though an iterator is half read and a thread still maps."""
    run_script("""
        import itertools, threading, time
        import bireme

        def square(x):
            return x * x

        it = bireme.imap(square, itertools.count(), inline=False)
        assert next(it) == 0
        threading.Thread(target=bireme.map, args=(time.sleep, [0.2] * 4), daemon=True).start()
        time.sleep(0.05)
    """).check()


def test_after_a_fork_the_child_gets_its_own(run_script):
    run_script("""
        import os
        import bireme

        def square(x):
            return x * x

        assert bireme.map(square, range(5), inline=False) == [0, 1, 4, 9, 16]
        child = os.fork()
        if child == 0:
            try:
                bireme.map(square, range(5), inline=False)
            except bireme.ForkedError:
                os._exit(0)
            os._exit(0)  # a pool of its own is fine, too; hanging or wrong values are not
        assert os.waitpid(child, 0)[1] == 0
        assert bireme.map(square, range(5), inline=False) == [0, 1, 4, 9, 16]
    """).check()
