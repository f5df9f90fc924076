"""The pool that `bireme.map` and its kin share: its life, and what the calls ask of it.

Each test is a program of its own, since the pool belongs to the process.
"""

from __future__ import annotations

import importlib.util
import textwrap

import pytest

PRELUDE = """
import os, sys, time
import bireme
from bireme import _shared_pool

def pid(_):
    return os.getpid()

def poll(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "still waiting"
        time.sleep(0.01)

def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()

def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False

def raised(kind, call, *args, **kwds):
    try:
        call(*args, **kwds)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")
"""


def needs(module):
    """Skip where a module is not installed; it is not imported here, where its threads would stay."""
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


@pytest.fixture
def run(run_script):
    def run(body, **options):
        return run_script(PRELUDE + textwrap.dedent(body), **options).check()

    return run


# Its life ----------------------------------------------------------------------------------


def test_it_is_reused_and_few_are_kept(run):
    run("""
        first = bireme.map(pid, range(20), inline=False, workers=1)
        for _ in range(5):
            assert bireme.map(pid, range(20), inline=False, workers=1) == first
        for workers in range(1, 7):
            bireme.map(pid, range(20), inline=False, workers=workers)
        assert len(_shared_pool._entries) == _shared_pool._MOST
        poll(lambda: not alive(first[0]))
    """)


def test_it_goes_when_idle_and_comes_back(run):
    run("""
        _shared_pool.IDLE_S = 0.2
        pids = set(bireme.map(pid, range(20), inline=False))
        poll(lambda: not any(map(alive, pids)) and not _shared_pool._entries)
        poll(lambda: len(os.listdir("/proc/self/task")) == 1)
        assert not children(), "its template went, too"
        again = set(bireme.map(pid, range(20), inline=False))
        assert again and not again & pids
        poll(lambda: not any(map(alive, again)))
    """)


def test_it_leaves_the_template_of_another_pool(run):
    run("""
        _shared_pool.IDLE_S = 0.2
        with bireme.Pool(1) as pool:
            worker = pool.apply(pid, (0,))
            template = children()
            bireme.map(pid, range(20), inline=False)
            assert children() == template, "they share it"
            poll(lambda: not _shared_pool._entries and _shared_pool._watcher is None)
            assert children() == template
            assert pool.apply(pid, (0,)) == worker
    """)


def test_it_is_not_idle_while_it_works(run):
    run("""
        import threading
        def slow(seconds):
            time.sleep(seconds)
        bireme.map(slow, [0, 0], inline=False)  # what is imported at the first call takes its time
        _shared_pool.IDLE_S = 0.3
        call = threading.Thread(target=bireme.map, args=(slow, [2, 2]), kwargs={"inline": False})
        call.start()
        poll(lambda: any(entry.pool._client.outstanding() for entry in [*_shared_pool._entries.values()]))
        while call.is_alive():
            kept = bool(_shared_pool._entries)
            assert kept or not any(thread is call for thread in threading.enumerate())
            time.sleep(0.05)
    """)


def test_who_uses_it_keeps_it(run):
    run("""
        items = bireme.imap(pid, range(60), chunksize=1, buffersize=2)
        pids = {next(items)}
        _shared_pool.end()
        pids.update(items)
        assert len(pids) <= bireme.cpu_count(), "the iterator lost its workers"
        del items
        poll(lambda: not any(map(alive, pids)))
    """)


def test_no_thread_of_ours_sees_a_fork(run):
    run(
        """
        seen = []
        os.register_at_fork(before=lambda: seen.append(len(os.listdir("/proc/self/task"))))
        for _ in range(3):
            bireme.map(pid, range(20), inline=False)
            child = os.fork()
            if child == 0:
                os._exit(len(os.listdir("/proc/self/task")) - 1)
            assert os.waitpid(child, 0)[1] == 0
        assert seen == [1, 1, 1], seen
        assert len(bireme.map(pid, range(20), inline=False)) == 20
        """,
        interpreter_args=["-W", "error"],
    )


def test_a_forked_child_leaves_its_parents_pool_alone(run):
    run("""
        before = set(bireme.map(pid, range(20), inline=False, workers=1))
        child = os.fork()
        if child == 0:
            inside = set(bireme.map(pid, range(20), inline=False, workers=1))
            _shared_pool.end()
            os._exit(bool(inside & before))
        assert os.waitpid(child, 0)[1] == 0
        assert set(bireme.map(pid, range(20), inline=False, workers=1)) == before
    """)


@pytest.mark.parametrize(
    "change",
    [
        "os.environ['ADDED'] = '1'",
        "os.chdir('/')",
        "sys.path.append('/added')",
        "sys.argv.append('x')",
    ],
)
def test_it_is_renewed_with_the_surroundings(run, change):
    run(f"""
        def look(_):
            return os.getpid(), os.environ.get("ADDED"), os.getcwd(), sys.path[-1], sys.argv[1:]
        first = bireme.map(look, [0], inline=False, workers=1)[0]
        assert bireme.map(look, [0], inline=False, workers=1)[0] == first
        {change}
        second = bireme.map(look, [0], inline=False, workers=1)[0]
        assert second[1:] == look(0)[1:] != first[1:]
        assert second[0] != first[0]
    """)


@pytest.mark.parametrize("edited", ["tasks_here", "helper_here"])
def test_it_is_renewed_when_a_source_changed(run, edited):
    """The function's own module, and one that it only uses."""
    run(
        f"""
        import importlib
        import helper_here, tasks_here
        assert bireme.map(tasks_here.work, [1], inline=False) == [(1, "old", "old")]
        with open("{edited}.py") as file:
            text = file.read()
        with open("{edited}.py", "w") as file:
            file.write(text.replace("old", "newer"))
        importlib.reload(helper_here), importlib.reload(tasks_here)
        expected = [tasks_here.work(1)]
        assert "newer" in expected[0]
        assert bireme.map(tasks_here.work, [1], inline=False) == expected
        """,
        modules={
            "tasks_here.py": """
                import helper_here
                MINE = "old"
                def work(x):
                    return x, MINE, helper_here.WORD
            """,
            "helper_here.py": "WORD = 'old'\n",
        },
    )


@pytest.mark.parametrize("reloads", [True, False])
@pytest.mark.parametrize("known", ["before", "after"])
def test_all_workers_run_the_same_source(run, reloads, known):
    """Wherever a module was when it was edited: in the caller before the pool, or in one worker."""
    run(
        f"""
        import importlib
        if {known == "before"}:
            import edited_here
        bireme.map(abs, range(20), inline=False, workers=2)
        import edited_here
        for number in range(5):
            word = edited_here.word
            assert bireme.map(lambda _: edited_here.word(), [0], inline=False, workers=2) == [word()]
            with open("edited_here.py", "w") as file:
                file.write(f"def word(): return 'edit {{'I' * number}}'")
            if {reloads}:
                importlib.reload(edited_here)
            def slow(_):
                time.sleep(0.01)
                return edited_here.word()
            words = bireme.map(slow, range(20), inline=False, workers=2, chunksize=1)
            assert set(words) == {{"edit " + "I" * number}}, words
            importlib.reload(edited_here)
        """,
        modules={"edited_here.py": "def word(): return 'old'\n"},
    )


def test_a_module_that_a_worker_knew_first(run):
    """It was edited before the caller, too, imported it."""
    run(
        """
        def word(_):
            import edited_here
            return edited_here.WORD
        assert bireme.map(word, [0], inline=False) == ["old"]
        with open("edited_here.py", "w") as file:
            file.write("WORD = 'newer'")
        import edited_here
        assert bireme.map(word, range(20), inline=False, chunksize=1) == ["newer"] * 20
        """,
        modules={"edited_here.py": "WORD = 'old'\n"},
    )


def test_the_levels_of_loggers_are_those_at_the_call(run):
    result = run("""
        bireme.map(abs, [1], inline=False, workers=1)  # before there is any logging
        import logging
        def work(text):
            logging.getLogger("mine").info(text)
            logging.getLogger("other").debug(text)
        def call(text):
            bireme.map(work, [text], inline=False, workers=1)
            worker = bireme.map(pid, [0], inline=False, workers=1)
            assert bireme.map(pid, [0], inline=False, workers=1) == worker
        call("nobody asks for it")
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        call("by the root's level")
        logging.getLogger("other").setLevel(logging.DEBUG)
        call("by its own")
        logging.disable(logging.INFO)
        call("all but warnings are off")
        logging.disable(logging.NOTSET)
        logging.getLogger().setLevel(logging.WARNING)
        call("only its own is left")
    """)
    assert result.stderr.splitlines() == [
        "mine: by the root's level",
        "mine: by its own",
        "other: by its own",
        "other: only its own is left",
    ]


def test_it_is_replaced_when_broken(run):
    run("""
        bireme.map(pid, range(4), inline=False)
        for entry in _shared_pool._entries.values():
            entry.pool.terminate()
        assert bireme.map(abs, [-1, -2], inline=False) == [1, 2]
    """)


def test_an_initializer_gets_a_pool_of_its_own(run):
    run("""
        def prepare(value):
            global prepared
            prepared = value
        def look(_):
            return os.getpid(), globals().get("prepared")
        first = bireme.map(look, range(9), initializer=prepare, initargs=(7,))
        assert {value for _, value in first} == {7}
        poll(lambda: not any(alive(pid) for pid, _ in first))
        assert not _shared_pool._entries
        assert {value for _, value in bireme.map(look, range(9), inline=False)} == {None}
        lazy = bireme.imap(look, range(9), initializer=prepare, initargs=(8,))
        assert {value for _, value in lazy} == {8}
    """)


def test_fork_sees_the_caller_as_it_is_at_the_call(run):
    run("""
        import json  # a module of the parent, so that what is looked up by name differs
        state = "first"
        def look(_):
            return state
        assert bireme.map(look, [1, 2], start_method="fork") == ["first"] * 2
        state = "second"
        assert bireme.map(look, [1, 2], start_method="fork") == ["second"] * 2
    """)


def test_many_threads(run):
    run("""
        import threading
        failures = []
        def work(number):
            try:
                for _ in range(20):
                    items = range(number, number + 50)
                    inline = (None, False)[_ % 2]
                    assert bireme.map(lambda x: x + number, items, inline=inline) == [x + number for x in items]
                    if number == 0:
                        os.environ["ROUND"] = str(_)  # renews the pool under the others
            except BaseException as error:
                failures.append(error)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not failures, failures
    """)


def test_an_interrupt_frees_the_pool(run):
    run("""
        import signal, threading
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        raised(KeyboardInterrupt, bireme.map, lambda _: time.sleep(3600), range(4), inline=False)
        assert bireme.map(abs, [-1, -2], inline=False) == [1, 2]
    """)


# What the calls ask of it -------------------------------------------------------------------


def test_explanations(run):
    result = run("""
        bireme.map(abs, range(10), explain=True)
        bireme.map(lambda _: time.sleep(0.1), range(10), explain=True)
        bireme.map(abs, range(10), explain=True, inline=True)
        bireme.map(abs, range(10), explain=True, inline=False, workers=2)
        bireme.starmap(pow, [(2, 3)], explain=True, seed=1, retries=1, workers=1)
    """)
    lines = result.stderr.splitlines()
    assert len(lines) == 5, lines
    assert lines[0].startswith("bireme.map: 10 items inline in ")
    assert lines[0].endswith(" an item would not pay") or lines[0].endswith(
        " an item: too small to tell"
    )
    assert lines[1].startswith("bireme.map: 1 item inline in ")
    assert "; the other 9, about " in lines[1]
    assert lines[2].startswith("bireme.map: 10 items inline in ")
    assert lines[3] == "bireme.map: all items by 2 workers, because of inline=False"
    assert lines[4] == "bireme.starmap: all items by one worker, because of seed, retries"
    assert not result.stdout


def test_wrong_arguments_are_refused_wherever_it_would_run(run):
    run("""
        for inline in (None, True, False):
            raised(TypeError, bireme.map, 5, [1], inline=inline)
            raised(TypeError, bireme.map, abs, inline=inline)
            raised(TypeError, bireme.imap, abs, inline=inline)
            raised(TypeError, bireme.map, abs, 5, inline=inline)
            raised(ValueError, bireme.map, abs, [1], inline=inline, chunksize=0)
            raised(ValueError, bireme.imap, abs, [1], inline=inline, chunksize=0)
            raised(ValueError, bireme.imap, abs, [1], inline=inline, buffersize=0)
            raised(ValueError, bireme.map, abs, [1], inline=inline, workers=0)
            raised(ValueError, bireme.map, abs, [1], inline=inline, seed=-1)
            raised(ValueError, bireme.map, abs, [1], inline=inline, retries=-1)
            raised(TypeError, bireme.map, abs, [1], inline=inline, retry_on=(5,), retries=1)
        for option in ({"task_timeout": 1}, {"start_method": "spawn"}, {"initializer": print}):
            error = raised(ValueError, bireme.map, abs, [1], inline=True, **option)
            assert next(iter(option)) in str(error)
        raised(ValueError, bireme.map, abs, [1], start_method="none")
    """)


def test_errors_are_the_same_in_either_place(run):
    run("""
        bireme.map(pid, range(9), inline=False)
        def work(x):
            if x in (3, 7):
                raise (ValueError if x == 3 else KeyError)(x)
            if x > 20:
                time.sleep(0.02)
            return x
        for inline in (None, True, False):
            assert raised(ValueError, bireme.map, work, range(30), inline=inline).args == (3,)
            assert raised(ValueError, bireme.map, work, iter(range(30)), inline=inline).args == (3,)
            assert raised(KeyError, bireme.starmap, work, [(4,), (7,), (3,)], inline=inline).args == (7,)
        # A failure in the caller counts before one in a worker, and the rest has run all the same.
        def mixed(x):
            if x != 2:
                time.sleep(0.02)
            open(f"ran-{x}", "w").close()
            raise ValueError(x, os.getpid())
        error = raised(ValueError, bireme.map, mixed, range(8))
        assert error.args == (0, os.getpid())
        assert all(os.path.exists(f"ran-{x}") for x in range(8))
    """)


def test_what_was_begun_in_the_caller_ends_in_order(run):
    run("""
        bireme.map(pid, range(9), inline=False)  # to start a pool would not pay
        def work(x):
            time.sleep(0.002)
            return x, os.getpid()
        for items in (range(50), list(range(50)), iter(range(50)), {x: 0 for x in range(50)}):
            results = bireme.map(work, items)
            assert [x for x, _ in results] == list(range(50))
            places = [place == os.getpid() for _, place in results]
            here = places.count(True)
            assert 0 < here < 50 and places == [True] * here + [False] * (50 - here)
        both = bireme.map(lambda a, b: (work(a)[0], b), range(50), (str(x) for x in range(60)))
        assert both == [(x, str(x)) for x in range(50)]
    """)


def test_the_first_pool_starts_while_items_run_here(run):
    run("""
        _shared_pool._FIRST_START_S = 0.2  # so that it does not pay to wait for it
        pools = []
        def work(x):
            pools.append(len(_shared_pool._entries))
            time.sleep(0.01)
        bireme.map(work, range(40), workers=2)
        # Here they were counted in this list, elsewhere in others.
        assert pools[0] == 0 and pools[-1] == 1 and len(pools) < 40, pools
        assert pools.index(1) <= 5, pools
    """)


def test_a_pool_that_cannot_start_harms_no_items_here(run):
    run("""
        _shared_pool._FIRST_START_S = 0.2
        tried = []
        def find(*_):
            tried.append(1)
            raise bireme.ResourceLimitError("none to be had")
        _shared_pool.find = find
        def work(x):
            time.sleep(0.01)
            return x
        assert bireme.map(work, range(28), workers=2) == list(range(28))
        assert tried == [1]
        raised(bireme.ResourceLimitError, bireme.map, abs, [1], inline=False)
    """)


@needs("tqdm")
def test_one_bar_for_both_places(run):
    result = run("""
        bireme.map(pid, range(9), inline=False)
        bireme.map(lambda _: time.sleep(0.002), range(64), progress=True)
        bireme.map(abs, range(65), progress=True)
        list(bireme.imap(abs, range(66), progress=True, inline=True))
    """)
    for total in (64, 65, 66):
        assert f"{total}/{total}" in result.stderr


def test_imap_in_the_caller(run):
    run("""
        read = []
        def items():
            for number in range(5):
                read.append(number)
                yield number
        def work(x):
            if x == 2:
                raise ValueError(x)
            return x, os.getpid()
        lazy = bireme.imap(work, items(), inline=True)
        assert iter(lazy) is lazy and read == []
        assert next(lazy) == (0, os.getpid()) and read == [0]
        assert next(lazy) == (1, os.getpid())
        raised(ValueError, next, lazy)
        assert [x for x, _ in lazy] == [3, 4]
        raised(StopIteration, next, lazy)
        assert list(bireme.imap(pow, [2, 3], [3, 2], inline=True)) == [8, 9]
        assert list(bireme.imap(pow, [2, 3], [3, 2])) == [8, 9]
        assert os.getpid() not in bireme.imap(pid, range(5))
    """)
