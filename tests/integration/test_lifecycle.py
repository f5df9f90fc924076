"""Pools that are closed, closed twice, never closed, dropped, or alive at the end."""

from __future__ import annotations

import gc
import os
import warnings

import pytest

import bireme
from tests.integration import tasks
from tests.support.processes import descendants, is_alive
from tests.support.scripts import WITH_TASKS
from tests.support.waiting import GENEROUS, poll


def _submissions(pool):
    return [
        lambda: pool.apply(tasks.square, (1,)),
        lambda: pool.apply_async(tasks.square, (1,)),
        lambda: pool.map(tasks.square, [1]),
        lambda: pool.map_async(tasks.square, [1]),
        lambda: pool.starmap(tasks.add, [(1, 2)]),
        lambda: pool.starmap_async(tasks.add, [(1, 2)]),
        lambda: pool.imap(tasks.square, [1]),
        lambda: pool.imap_unordered(tasks.square, [1]),
        lambda: pool.options(task_timeout=1).apply_async(tasks.square, (1,)),
        pool.__enter__,
    ]


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_an_ended_pool_takes_no_work(make_pool, end):
    pool = make_pool(1)
    getattr(pool, end)()
    for submit in _submissions(pool):
        with pytest.raises(ValueError, match="not running"):
            submit()
    pool.join()
    for submit in _submissions(pool):
        with pytest.raises(ValueError, match="not running"):
            submit()


def test_join_needs_close(pool):
    with pytest.raises(ValueError, match="still running"):
        pool.join()


def test_ending_twice_is_fine(make_pool):
    pool = make_pool(1)
    for end in (
        pool.close,
        pool.close,
        pool.join,
        pool.join,
        pool.terminate,
        pool.terminate,
        pool.join,
        pool.close,
    ):
        end()
    pool = make_pool(1)
    for end in (pool.terminate, pool.close, pool.terminate, pool.join, pool.join):
        end()


def test_close_finishes_what_was_submitted(make_pool):
    pool = make_pool(2)
    results = [pool.apply_async(tasks.slow, (i, 0.02)) for i in range(20)]
    it = pool.imap(tasks.square, range(10))
    pool.close()
    pool.join()
    assert [result.get(0) for result in results] == list(range(20))
    assert list(it) == [x * x for x in range(10)]
    assert not pool.worker_pids()


def test_terminate_drops_what_was_submitted(make_pool):
    pool = make_pool(2)
    pids = tasks.workers_of(pool)
    result = pool.map_async(tasks.slow, [3600] * 100, chunksize=1)
    single = pool.apply_async(tasks.sleep_forever)
    pool.terminate()
    pool.join()
    assert poll(lambda: not any(map(is_alive, pids)))
    for left in (result, single):
        with pytest.raises(bireme.BiremeError):
            left.get(GENEROUS)


def test_the_context_manager_terminates(start_method):
    with bireme.Pool(2, start_method=start_method) as pool:
        pids = tasks.workers_of(pool)
        result = pool.apply_async(tasks.sleep_forever)
        assert len(pids) == 2
    pool.join()
    assert poll(lambda: not any(map(is_alive, pids)))
    with pytest.raises(bireme.BiremeError):
        result.get(GENEROUS)


def test_an_error_in_the_block_ends_the_pool(start_method):
    pool = bireme.Pool(1, start_method=start_method)
    pids = tasks.workers_of(pool)
    with pytest.raises(KeyError, match="missing"), pool:
        {}[pool.apply_async(tasks.sleep_forever) and "missing"]
    pool.join()
    assert poll(lambda: not any(map(is_alive, pids)))


def test_a_dropped_pool_goes_away(start_method):
    pool = bireme.Pool(2, start_method=start_method)
    assert pool.map(tasks.square, [2]) == [4]
    pids = tasks.workers_of(pool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del pool
        gc.collect()
    assert poll(lambda: not any(map(is_alive, pids)))


def test_a_pool_in_a_cycle_goes_away(start_method):
    class Holder:
        def __init__(self) -> None:
            self.pool = bireme.Pool(1, start_method=start_method)
            self.itself = self

    holder = Holder()
    pids = tasks.workers_of(holder.pool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del holder
        gc.collect()
    assert poll(lambda: not any(map(is_alive, pids)))


def test_a_dropped_pool_still_finishes_a_result_that_somebody_holds(start_method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        result = bireme.Pool(1, start_method=start_method).apply_async(tasks.slow, (5, 0.1))
        gc.collect()
        assert result.get(GENEROUS) == 5
        del result
        gc.collect()


def test_a_pool_that_is_dropped_while_its_threads_start_finishes_all_the_same(start_method):
    """Which threads it has says nothing of who holds results."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for i in range(10):
            pool, told = bireme.Pool(1, start_method=start_method), []
            result = pool.map_async(tasks.square, range(4), callback=told.append)
            del pool
            assert result.get(GENEROUS) == [0, 1, 4, 9], i
            assert told == [[0, 1, 4, 9]]


def test_the_results_of_a_pool_that_nobody_kept(start_method):
    """As with the standard pool, whose results hold it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        many = bireme.Pool(2, start_method=start_method).map_async(tasks.square, range(100), 3)
        assert many.get(GENEROUS) == [x * x for x in range(100)]
        pool = bireme.Pool(1, start_method=start_method, maxtasksperchild=1)
        results = [pool.apply_async(tasks.square, (x,)) for x in range(5)]
        del pool  # its workers have successors all the same
        gc.collect()
        assert [result.get(GENEROUS) for result in results] == [0, 1, 4, 9, 16]


def test_a_pool_that_nobody_has_any_more_amid_a_fork_reaps_its_workers(run_script, start_method):
    """Its threads are stopped just then: they go on after the fork, though no pool asks them to."""
    run_script(
        """
        import os, sys
        import bireme
        from tests.integration import tasks
        from tests.support.processes import descendants
        from tests.support.waiting import poll

        def own():
            kin = descendants(os.getpid(), zombies=True)
            return {process.pid for process in kin if process.parent == os.getpid()}

        def let_go():
            results.clear()
            threads = [open(f"/proc/self/task/{tid}/comm").read() for tid in os.listdir("/proc/self/task")]
            assert not any(name.startswith("bireme-") for name in threads), threads

        results = []
        if __name__ == "__main__":
            os.register_at_fork(before=let_go)  # amid the hooks of the pools, which come later
            pool = bireme.Pool(2, start_method=sys.argv[1])
            assert pool.apply(tasks.square, (2,)) == 4
            workers = set(tasks.workers_of(pool))
            results += [pool.apply_async(tasks.sleep_forever) for _ in workers]
            del pool
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
            assert not results
            assert poll(lambda: not own() & workers), own()
        """,
        args=[start_method],
        env=WITH_TASKS,
        interpreter_args=("-W", "ignore::ResourceWarning"),
    ).check()


@pytest.mark.parametrize("state", ["idle", "busy", "queued", "closed", "iterating", "dead_worker"])
def test_alive_at_exit(run_script, start_method, state):
    """The interpreter ends, quietly, and nobody stays; as with the standard pool, work is dropped."""
    result = run_script(
        """
        import sys
        import bireme
        from tests.integration import tasks

        if __name__ == "__main__":
            pool = bireme.Pool(2, start_method=sys.argv[1])
            assert pool.apply(tasks.square, (2,)) == 4
            state = sys.argv[2]
            if state == "busy":
                kept = pool.map_async(tasks.slow, [3600] * 2, 1)
            elif state == "queued":
                kept = [pool.apply_async(tasks.slow, (1, 3600)) for _ in range(1000)]
            elif state == "closed":
                pool.close()
            elif state == "iterating":
                kept = pool.imap(tasks.square, iter(int, 1))
                next(kept)
            elif state == "dead_worker":
                kept = pool.apply_async(tasks.die, ("SIGKILL",))
            print("the end")
        """,
        args=[start_method, state],
        env=WITH_TASKS,
    ).check()
    assert result.stdout.startswith("the end") or state == "dead_worker"
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


def test_alive_at_exit_in_a_module_and_in_a_class(run_script):
    """Globals are torn down in any order; nothing is said about it."""
    result = run_script("""
        import bireme
        class A:
            def __init__(self):
                self.pool = bireme.Pool(1)
            def __del__(self):
                self.pool.terminate()
        problem = A()
        problem.pool.map(float, tuple(range(10)))
        other = bireme.Pool(1).imap(float, range(10))
    """).check()
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


def test_an_uncaught_error_with_a_live_pool(run_script):
    result = run_script("""
        import time
        import bireme
        pool = bireme.Pool(2)
        result = pool.map_async(time.sleep, [3600] * 10)
        raise SystemExit(17)
    """)
    assert result.returncode == 17
    assert not result.survivors


def test_hard_exit_leaves_nobody(run_script, start_method):
    result = run_script(
        """
        import os, sys
        import bireme
        from tests.integration import tasks
        if __name__ == "__main__":
            pool = bireme.Pool(2, start_method=sys.argv[1])
            kept = pool.map_async(tasks.slow, [3600] * 10)
            assert tasks.workers_of(pool)
            os._exit(9)
        """,
        args=[start_method],
        env=WITH_TASKS,
    )
    assert result.returncode == 9
    assert not result.survivors


def test_many_pools_in_a_row(start_method):
    before = len(descendants(os.getpid()))
    count = 40 if start_method in ("template", "fork") else 5
    for i in range(count):
        with bireme.Pool(2, start_method=start_method) as pool:
            assert pool.map(tasks.square, [i, i + 1]) == [i * i, (i + 1) ** 2]
        pool.join()
    assert poll(lambda: len(descendants(os.getpid())) <= before)


def test_several_pools_at_once(start_method):
    pools = [bireme.Pool(1, start_method=start_method) for _ in range(4)]
    results = [p.map_async(tasks.square, range(10 * i, 10 * i + 10)) for i, p in enumerate(pools)]
    for i, result in enumerate(results):
        assert result.get(GENEROUS) == [x * x for x in range(10 * i, 10 * i + 10)]
    assert len({pid for p in pools for pid in tasks.workers_of(p)}) == 4
    for p in pools:
        p.terminate()
        p.join()


def test_idle_workers_use_no_cpu(pool):
    pool.map(tasks.square, range(100))

    def ticks() -> int:
        total = 0
        for pid in [*tasks.workers_of(pool), os.getpid()]:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total

    import time

    time.sleep(0.2)  # the last spin may still be on
    before = ticks()
    time.sleep(1.0)
    assert ticks() - before <= 5, "hundredths of a second of CPU in one idle second"
