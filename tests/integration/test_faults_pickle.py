"""What does not pickle, or does not unpickle: one failed task, told in full, and a healthy pool."""

from __future__ import annotations

import threading

import pytest

import bireme
from tests.integration import tasks
from tests.support.waiting import GENEROUS


@pytest.fixture
def pool(shared_pool):
    """Give the module's pool, and check that it is as good as before."""
    pids = tasks.workers_of(shared_pool)
    yield shared_pool
    assert shared_pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]
    assert set(tasks.workers_of(shared_pool)) == set(pids), "nobody had to die for it"


def test_an_exception_that_needs_two_arguments(pool):
    with pytest.raises(Exception, match="this and that") as caught:
        pool.apply_async(tasks.raise_two_arguments).get(GENEROUS)
    text = "".join(map(str, (type(caught.value).__name__, caught.value, caught.value.__cause__)))
    assert "TwoArguments" in text
    with pytest.raises(Exception, match="this and that"):
        pool.map(tasks.raise_two_arguments, range(3))


def test_it_keeps_its_class_and_what_it_holds(pool):
    with pytest.raises(tasks.TwoArgumentsError) as caught:
        pool.apply(tasks.raise_two_arguments)
    assert caught.value.args == ("this and that",)
    assert caught.value.held == "this"


def test_an_exception_that_does_not_pickle(pool):
    with pytest.raises(Exception, match="holds a lock") as caught:
        pool.apply_async(tasks.raise_unpicklable).get(GENEROUS)
    assert "Unpicklable" in repr(caught.value) + str(caught.value)
    assert "raise_unpicklable" in str(caught.value.__cause__) + str(caught.value)


def test_an_exception_that_does_not_unpickle(pool):
    with pytest.raises(Exception, match="was raised") as caught:
        pool.apply_async(tasks.raise_fails_to_load).get(GENEROUS)
    assert "FailsToLoadError" in repr(caught.value) + str(caught.value)
    assert isinstance(caught.value, bireme.RemoteError)


def test_an_argument_that_does_not_pickle(pool):
    for call in (
        lambda: pool.apply(tasks.identity, (threading.Lock(),)),
        lambda: pool.apply_async(tasks.identity, (threading.Lock(),)),
        lambda: pool.map(tasks.identity, [1, threading.Lock()]),
        lambda: pool.starmap(tasks.add, [(1, threading.Lock())]),
        lambda: list(pool.imap(tasks.identity, [threading.Lock()])),
    ):
        with pytest.raises(bireme.PicklingError, match="lock"):
            call()


def test_the_error_names_the_item_and_the_argument(pool):
    items = [*range(7), threading.Lock(), 8]
    with pytest.raises(bireme.PicklingError, match=r"items\[6:9\]\[1\] is a _thread.lock"):
        pool.map(tasks.identity, items, 3)
    with pytest.raises(bireme.PicklingError, match=r"kwds\['value'\] is a _thread.lock"):
        pool.apply(tasks.identity, (), {"value": threading.Lock()})
    with pytest.raises(bireme.PicklingError, match=r"initargs\[1\] is a _thread.lock"):
        bireme.Pool(1, print, (1, threading.Lock()))


def test_imap_refuses_a_function_at_once(pool):
    lock = threading.Lock()
    with pytest.raises(bireme.PicklingError, match="lock"):
        pool.imap(lambda x: (x, lock), iter(int, 1))


def test_one_bad_item_of_an_iterator_hurts_no_other(pool):
    items = [1, threading.Lock(), 3]
    it = pool.imap(tasks.identity, items)
    assert next(it) == 1
    with pytest.raises(bireme.PicklingError):
        next(it)
    assert next(it) == 3


def test_an_argument_that_raises_while_it_pickles(pool):
    class Refuses:
        def __reduce__(self):
            raise RuntimeError("cannot pickle")

    with pytest.raises(RuntimeError, match="cannot pickle"):
        pool.map(tasks.identity, [Refuses()] * 10)


def test_an_argument_that_does_not_unpickle(pool):
    with pytest.raises(Exception, match="cannot be rebuilt"):
        pool.apply_async(tasks.identity, (tasks.FailsToLoad(),)).get(GENEROUS)
    with pytest.raises(Exception, match="loads only at home"):
        pool.map(tasks.identity, [tasks.LoadsOnlyIn()] * 3)


def test_an_argument_that_ends_its_reader(make_pool):
    """The payload is touched only when the task counts as running: it is not tried for ever."""
    pool = make_pool(1)
    with pytest.raises(bireme.WorkerDiedError) as caught:
        pool.apply_async(tasks.identity, (tasks.DiesOnLoad(),)).get(GENEROUS)
    assert caught.value.exitcode == 7
    assert pool.apply(tasks.square, (3,)) == 9


@pytest.mark.parametrize("task", [tasks.return_lock, tasks.return_generator])
def test_a_result_that_does_not_pickle(pool, task):
    with pytest.raises(bireme.PicklingError) as caught:
        pool.apply_async(task).get(GENEROUS)
    assert "lock" in str(caught.value) or "generator" in str(caught.value)
    with pytest.raises(bireme.PicklingError):
        pool.map(task, range(4))


def test_a_result_that_does_not_unpickle(pool):
    with pytest.raises(Exception, match="cannot be rebuilt"):
        pool.apply_async(tasks.return_fails_to_load).get(GENEROUS)
    with pytest.raises(Exception, match="cannot be rebuilt"):
        pool.map(tasks.return_fails_to_load, range(4))


def test_only_the_bad_one_of_an_iterator_fails(pool):
    it = pool.imap(tasks.fails_to_load_if_two, range(5))
    outcomes = []
    while True:
        try:
            outcomes.append(next(it))
        except StopIteration:
            break
        except Exception as error:
            outcomes.append(str(error))
    assert [o for o in outcomes if isinstance(o, int)] == [0, 1, 3, 4]
    assert "cannot be rebuilt" in outcomes[2]


def test_a_result_too_deep_to_pickle(pool):
    with pytest.raises((RecursionError, bireme.BiremeError)):
        pool.apply_async(tasks.return_deep, (100_000,)).get(GENEROUS)


def test_a_function_that_the_worker_cannot_find(pool):
    """A module that exists only here."""
    import sys
    import types

    module = types.ModuleType("exists_only_here")
    exec("def work(x):\n    return x + 1\n", vars(module))
    sys.modules["exists_only_here"] = module
    try:
        assert pool.apply_async(module.work, (1,)).get(GENEROUS) == 2
    except (ImportError, AttributeError, bireme.BiremeError) as error:
        assert "exists_only_here" in str(error)  # noqa: PT017
    finally:
        del sys.modules["exists_only_here"]


def test_such_exceptions_in_a_group(pool):
    with pytest.raises(ExceptionGroup, match="outer") as caught:
        pool.apply(tasks.raise_group)
    key, inner = caught.value.exceptions
    assert isinstance(key, KeyError)
    needy, value = inner.exceptions
    assert isinstance(needy, tasks.TwoArgumentsError)
    assert (needy.args, needy.held) == (("this and that",), "this")
    assert value.args == (3,)


def test_an_exception_that_needs_two_arguments_to_be_made(pool):
    with pytest.raises(tasks.MadeOfTwoError) as caught:
        pool.apply_async(tasks.raise_made_of_two).get(GENEROUS)
    assert (caught.value.args, caught.value.that) == (("this",), "that")
