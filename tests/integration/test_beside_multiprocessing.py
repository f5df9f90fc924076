"""What `multiprocessing` says in a worker: a numbered child of the caller, which shares its key."""

from __future__ import annotations

import pytest

from tests.integration import tasks

START_METHODS = ("template", "fork", "spawn", "forkserver")


def test_a_worker_is_a_numbered_child_of_the_caller(make_pool):
    import multiprocessing
    import os

    pool = make_pool(2)
    seen = [pool.apply_async(tasks.multiprocessing_state) for _ in range(20)]
    for state in [result.get(60) for result in seen]:
        number = state["identity"][0]
        assert state["identity"] == (number,)
        assert state["name"] == f"BiremePoolWorker-{number}"
        assert number in (1, 2)
        assert state["daemon"] is False
        assert state["parent"] == (multiprocessing.current_process().name, os.getpid())
        assert state["parent_lives"]
        assert state["children"] == 0
    assert pool.apply(tasks.authkey) == bytes(multiprocessing.current_process().authkey)


def test_it_is_not_loaded_for_that(run_script):
    """Neither in the caller nor in the worker, which knows its number when it is."""
    run_script("""
        import sys
        import bireme

        def loaded():
            return "multiprocessing" in sys.modules

        def number():
            from multiprocessing import current_process
            return current_process()._identity[0]

        with bireme.Pool(1) as pool:
            assert not pool.apply(loaded)
            assert pool.apply(number) == 1
        assert not loaded()
    """).check()


_MANAGED = """
    import sys
    import bireme

    def put(queue, shared, number):
        shared[number] = number * number
        queue.put(number)

    def use(pool, manager):
        queue, shared = manager.Queue(), manager.dict()
        shared["before"] = True
        pool.starmap(put, [(queue, shared, number) for number in range(20)], 1)
        assert sorted(queue.get() for _ in range(20)) == list(range(20))
        assert dict(shared) == {"before": True} | {n: n * n for n in range(20)}

    if __name__ == "__main__":
        if sys.argv[2] == "first":
            import multiprocessing
        with bireme.Pool(2, start_method=sys.argv[1]) as pool:
            pool.apply(abs, (-1,))
            import multiprocessing
            with multiprocessing.Manager() as manager:
                use(pool, manager)
"""


@pytest.mark.parametrize("order", ["first", "later"])
def test_proxies_of_a_manager_work_in_tasks(run_script, start_method, order):
    """Also when the program loads `multiprocessing` only after the pool was made."""
    run_script(_MANAGED, args=[start_method, order]).check()


def test_forked_workers_have_connections_of_their_own(run_script):
    """A proxy that the caller has used is inherited; two processes on one connection would get mixed up."""
    run_script("""
        import multiprocessing, os, warnings
        import bireme

        def put(number):
            shared[number] = os.getpid()
            return shared[number] == os.getpid()

        with multiprocessing.Manager() as manager:
            shared = manager.dict()
            shared["before"] = True
            with bireme.Pool(2, start_method="fork") as pool:
                result = pool.map_async(put, range(300), 1)
                while not result.ready():
                    assert shared["before"] is True
                assert all(result.get(30))
            assert len(shared) == 301
    """).check()


def test_the_key_is_in_no_command_line_and_no_environment(run_script):
    run_script("""
        import multiprocessing, os, pathlib
        import bireme

        key = bytes(multiprocessing.current_process().authkey)
        with bireme.Pool(1) as pool:
            worker, template = pool.apply(lambda: (os.getpid(), os.getppid()))
            for pid in (worker, template):
                for file in ("cmdline", "environ"):
                    text = pathlib.Path(f"/proc/{pid}/{file}").read_bytes()
                    assert key not in text and repr(key).encode() not in text
                    assert key.hex().encode() not in text
    """).check()
