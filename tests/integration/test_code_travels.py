"""Functions and classes that no worker can import travel all the same."""

from __future__ import annotations

import functools
import gc
import operator
import threading

import pytest

import bireme
from tests.integration import tasks

START_METHODS = ("template", "fork")  # all four with --every-start-method

OFFSET = 100


def test_lambdas(shared_pool):
    assert shared_pool.map(lambda x: x + 1, range(10)) == list(range(1, 11))
    assert shared_pool.apply(lambda: 42) == 42
    assert list(shared_pool.imap(lambda x: x + OFFSET, range(5))) == [100, 101, 102, 103, 104]
    assert shared_pool.starmap(lambda x, y: x - y, [(3, 1), (5, 2)]) == [2, 3]


class Table:
    """Counts how often it is looked through."""

    looks = 0

    def __reduce__(self):
        Table.looks += 1
        return (dict, ([("a", 1)],))


def test_a_lazy_map_looks_at_its_function_once(shared_pool):
    """As any other map, whatever it has captured; a call is another one."""
    table = Table()
    Table.looks = 0

    def work(x: int) -> int:
        return x + table["a"]  # type: ignore[index]

    assert list(shared_pool.imap(work, range(50))) == list(range(1, 51))
    once = Table.looks
    assert sorted(shared_pool.imap_unordered(work, iter(range(20)), 3)) == list(range(1, 21))
    assert 0 < Table.looks <= 2 * once < 10
    for i in range(5):
        assert shared_pool.apply(work, (i,)) == i + 1
    assert Table.looks >= 2 * once + 5


def test_closures_see_what_they_captured(shared_pool):
    factor, table = 3, {"a": 1}

    def work(x: int) -> int:
        return x * factor + table["a"]

    assert shared_pool.map(work, range(4)) == [1, 4, 7, 10]
    factor = 5
    assert shared_pool.map(work, range(4)) == [1, 6, 11, 16], "a rebound variable is seen"
    table["a"] = 2
    assert shared_pool.map(work, range(4)) == [2, 7, 12, 17], "a change in place is seen"
    assert [shared_pool.apply(work, (x,)) for x in range(4)] == [2, 7, 12, 17]


def test_a_change_between_two_submits_is_seen(shared_pool):
    state = {"n": 0}

    def read() -> int:
        return state["n"]

    for n in range(10):
        state["n"] = n
        assert shared_pool.apply(read) == n


def test_a_change_after_submission_is_not_seen(shared_pool, tmp_path):
    """What travels is the value at submission."""
    gate, value = tmp_path / "gate", [1]
    blockers = [shared_pool.apply_async(tasks.wait_for_file, (str(gate),)) for _ in range(2)]
    result = shared_pool.apply_async(tasks.identity, (value,))
    value[0] = 2
    gate.touch()
    assert result.get(30) == [1]
    for blocker in blockers:
        blocker.get(30)


def test_partials_methods_and_callables(shared_pool):
    account = tasks.Account(10)
    assert shared_pool.map(functools.partial(tasks.add, 5), range(3)) == [5, 6, 7]
    assert shared_pool.map(account.plus, range(3)) == [10, 11, 12]
    assert [a.balance for a in shared_pool.map(tasks.Account.opened_with, [1, 2])] == [1, 2]
    assert shared_pool.map(tasks.Account.twice, [1, 2]) == [2, 4]
    assert shared_pool.map(account, [1, 2]) == [9, 8]
    assert shared_pool.map(operator.itemgetter(1), ["ab", "cd"]) == ["b", "d"]
    assert shared_pool.map("-".join, [["a", "b"]]) == ["a-b"]
    assert shared_pool.map(str.upper, ["a"]) == ["A"]
    assert shared_pool.map(int, ["1", "2"]) == [1, 2]
    assert shared_pool.map([5, 6, 7].__getitem__, [2, 0]) == [7, 5]


def test_local_classes_keep_their_identity(shared_pool):
    class Point:
        made = 0

        def __init__(self, x: int) -> None:
            self.x = x

        def moved(self, by: int) -> Point:
            return Point(self.x + by)

    class TroubleError(Exception):
        pass

    def fail(_: int) -> None:
        raise TroubleError("local")

    point = Point(1)
    results = shared_pool.map(point.moved, range(5))
    assert all(type(p) is Point for p in results)
    assert [p.x for p in results] == [1, 2, 3, 4, 5]
    assert Point.made == 0
    with pytest.raises(TroubleError, match="local"):
        shared_pool.map(fail, [1])


def test_recursive_and_decorated_functions(shared_pool):
    def factorial(n: int) -> int:
        return 1 if n <= 1 else n * factorial(n - 1)

    @functools.cache
    def cached(n: int) -> int:
        return n + 1

    @functools.wraps(cached)
    def wrapped(n: int) -> int:
        return 2 * cached.__wrapped__(n)

    assert shared_pool.map(factorial, [1, 5, 10]) == [1, 120, 3628800]
    assert shared_pool.map(wrapped, [1, 2]) == [4, 6]


def test_generators_of_functions_do_not_mix(shared_pool):
    """Many short-lived functions, some at recycled addresses: never the wrong one."""
    for n in range(200):
        assert shared_pool.apply(lambda n=n: n) == n
        assert shared_pool.apply(eval(f"lambda: {n}")) == n


def test_two_functions_of_one_name(shared_pool):
    def make(sign: int):
        def work(x: int) -> int:
            return sign * x

        return work

    plus, minus = make(1), make(-1)
    results = [shared_pool.apply_async(f, (3,)) for f in [plus, minus] * 20]
    assert [result.get(30) for result in results] == [3, -3] * 20


def test_what_cannot_be_pickled_is_refused_at_submission(shared_pool):
    """The error names the object, and where it hides."""
    lock = threading.Lock()
    holder = {"model": [1, lock]}
    for call in (
        lambda: shared_pool.apply_async(tasks.identity, (holder,)),
        lambda: shared_pool.map_async(tasks.identity, [holder]),
    ):
        with pytest.raises((bireme.PicklingError, TypeError)) as caught:
            call()
        text = " ".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
        assert "lock" in text
        assert "model" in text
    assert isinstance(caught.value, bireme.PicklingError)

    def capturing() -> object:
        return lock

    with pytest.raises(bireme.PicklingError, match="lock"):
        shared_pool.apply_async(capturing)
    assert shared_pool.apply(tasks.square, (3,)) == 9


def test_refresh_shows_a_change_inside_a_large_buffer(shared_pool):
    numpy = pytest.importorskip("numpy")
    big = numpy.zeros(200_000)

    def total() -> float:
        return float(big.sum())

    assert shared_pool.apply(total) == 0.0
    big[:] = 1.0
    bireme.refresh(total)
    assert [shared_pool.apply(total) for _ in range(4)] == [200_000.0] * 4


def test_a_large_captured_array_crosses_once_a_worker(shared_pool):
    """The bytes on the wire do not grow with the number of tasks (here: seen as memory)."""
    numpy = pytest.importorskip("numpy")
    big = numpy.arange(2_000_000, dtype=float)

    def pick(i: int) -> float:
        return float(big[i])

    assert shared_pool.map(pick, range(500), 1) == [float(i) for i in range(500)]
    assert [shared_pool.apply(pick, (i,)) for i in range(100)] == [float(i) for i in range(100)]


def test_threads_whose_arguments_need_different_classes(shared_pool):
    """Each may place the function anew while the other one submits."""

    def get_x(point):
        return point.x

    def run(number: int) -> None:
        kinds = [type(f"Kind{number}{n}", (), {"__module__": "__main__"}) for n in range(20)]
        for kind in kinds * 2:
            points = [kind() for _ in range(10)]
            for x, point in enumerate(points):
                point.x = x
            assert shared_pool.map(get_x, points, 1) == list(range(10))
        done.append(number)

    done: list[int] = []
    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 1, 2, 3]


def counters(number: int):
    """Make functions that count their own calls, wherever they are."""

    def make():
        calls = 0

        def count() -> int:
            nonlocal calls
            calls += 1
            return calls

        return count

    return [make() for _ in range(number)]


def test_many_functions_in_turn_are_sent_once():
    functions = counters(500)
    with bireme.Pool(1) as pool:
        for turn in range(1, 4):
            before = pool.statistics()["bytes_sent"]
            assert [pool.apply(function) for function in functions] == [turn] * 500
        assert pool.statistics()["bytes_sent"] - before < 500 * 40


def test_a_function_in_use_outlasts_many_others():
    (function, *others) = counters(3000)
    with bireme.Pool(1) as pool:
        for calls, other in enumerate(others, 1):
            assert pool.apply(function) == calls, "neither side has forgotten it"
            assert pool.apply(other) == 1
        assert pool.apply(others[0]) == 1, "forgotten, and sent again"


class Captured:
    """What a function keeps, to be counted."""

    content = ""


def count_captured() -> int:
    gc.collect()
    return sum(type(obj) is Captured for obj in gc.get_objects())


@pytest.mark.parametrize("kept", [True, False])
def test_workers_forget_functions_that_are_used_no_more(kept):
    """Whether the caller has dropped them, or both sides have too many of that size."""
    functions = []
    with bireme.Pool(1) as pool:
        for number in range(400):
            captured = Captured()
            captured.content = f"{number} " * 10_000
            functions.append(lambda captured=captured: captured.content.split()[-1])
            assert pool.apply(functions[-1]) == str(number)
            if not kept:
                functions.clear()
        assert pool.apply(count_captured) < 300


@pytest.mark.parametrize("how", ["def", "lambda", "method"])
def test_a_fork_sees_globals_that_changed_since(run_script, how):
    """Also through a function that was defined, and sent, after the fork."""
    make = {
        "def": "def f(x): return x * G",
        "lambda": "f = lambda x: x * G",
        "method": "class C:\n            def f(self, x): return x * G\n        f = C().f",
    }[how]
    run_script(f"""
        import bireme

        G = 5
        pool = bireme.Pool(1, start_method="fork")
        {make}
        assert pool.map(f, [1, 2]) == [5, 10]
        G = 7
        assert pool.map(f, [1, 2]) == [7, 14]
        assert pool.apply(f, (1,)) == 7
        pool.terminate()
    """).check()
