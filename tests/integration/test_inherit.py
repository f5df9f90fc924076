"""What `multiprocessing` lets processes share at a worker's birth only: locks, queues, pipes, values."""

from __future__ import annotations

import multiprocessing
import os
import threading
from typing import Any

import pytest

import bireme
from tests.support.waiting import GENEROUS

START_METHODS = ("template", "fork", "spawn", "forkserver")

_got: tuple[Any, ...] = ()


def keep(*args: Any) -> None:
    global _got
    _got = args


def use(number: int) -> int:
    lock, rlock, event, condition, semaphore, barrier, *_ = _got
    with lock, rlock, rlock, semaphore, condition:
        event.set()
    queue, simple, joinable, value, array, connection, raw = _got[6:]
    for each in (queue, simple, joinable):
        each.put(number)
    with value:
        value.value += number
    array[number], raw[number] = number, number
    connection.send(number)
    barrier.wait(GENEROUS)
    return os.getpid()


def _everything(context: Any) -> tuple[Any, ...]:
    kinds = ("Lock", "RLock", "Event", "Condition", "Semaphore")
    return (
        *(getattr(context, kind)() for kind in kinds),
        context.Barrier(1),
        context.Queue(),
        context.SimpleQueue(),
        context.JoinableQueue(),
        context.Value("i"),
        context.Array("i", 4),
        context.Pipe(duplex=True),
        context.RawArray("i", 4),
    )


def _context_for(start_method: str) -> Any:
    return multiprocessing.get_context("fork" if start_method == "fork" else "spawn")


@pytest.fixture(scope="module", autouse=True)
def _standing():
    """Start what `multiprocessing` keeps until the end, before anybody counts."""
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()
    multiprocessing.RawArray("b", 1 << 20)  # memory that it gives to all later values


def test_all_of_it_reaches_every_worker(make_pool, start_method):
    """A later one, too."""
    *parts, (ours, theirs), raw = _everything(_context_for(start_method))
    pool = make_pool(1, initializer=keep, initargs=(*parts, theirs, raw), maxtasksperchild=1)
    assert len(set(pool.map(use, range(4), 1))) == 4
    event, queue, simple, joinable, value, array = parts[2], *parts[6:]
    assert event.is_set()
    assert value.value == 6
    assert list(array) == list(raw) == [0, 1, 2, 3]
    assert sorted(queue.get(timeout=GENEROUS) for _ in range(4)) == [0, 1, 2, 3]
    assert sorted(joinable.get(timeout=GENEROUS) for _ in range(4)) == [0, 1, 2, 3]
    assert sorted(simple.get() for _ in range(4)) == [0, 1, 2, 3]
    assert sorted(ours.recv() for _ in range(4)) == [0, 1, 2, 3]
    for each in (queue, joinable):
        each.close()
        each.join_thread()
    simple.close()
    ours.close()
    theirs.close()


def increase(count: int) -> None:
    lock, value = _got
    for _ in range(count):
        with lock:
            value.value += 1


def test_a_lock_excludes(make_pool, start_method):
    context = _context_for(start_method)
    value = context.RawValue("i", 0)
    pool = make_pool(2, initializer=keep, initargs=(context.Lock(), value))
    pool.map(increase, [500] * 4, 1)
    assert value.value == 2000


@pytest.mark.parametrize("kind", ["Lock", "Condition", "Queue", "Value"])
def test_by_default_a_lock_of_a_fork_context_makes_the_pool_fork(kind):
    context = multiprocessing.get_context("fork")
    shared = context.Value("i") if kind == "Value" else getattr(context, kind)()
    with bireme.Pool(1, keep, (1, shared)) as pool:
        assert pool.start_method == "fork"
        assert pool.apply(abs, (-1,)) == 1
    pool.join()


@pytest.mark.usefixtures("warm_template")
def test_by_default_one_of_another_context_does_not():
    with bireme.Pool(1, keep, (multiprocessing.get_context("spawn").Lock(),)) as pool:
        assert pool.start_method == "template"
        assert pool.apply(abs, (-1,)) == 1
    pool.join()


@pytest.mark.parametrize("method", ["template", "spawn", "forkserver"])
def test_a_lock_of_a_fork_context_is_refused_elsewhere(method):
    lock = multiprocessing.get_context("fork").Lock()
    with pytest.raises(bireme.PicklingError, match=r"initargs\[1\].*start_method='fork'.*manager"):
        bireme.Pool(1, keep, (1, lock), start_method=method)


def test_a_task_cannot_be_given_one(make_pool, start_method):
    """Nor can it in `multiprocessing`."""
    pool = make_pool(1)
    with pytest.raises(RuntimeError, match="inheritance"):
        pool.apply(abs, (_context_for(start_method).Lock(),))


def test_a_fork_inherits_what_cannot_be_pickled():
    lock, numbers = threading.Lock(), iter([1, 2, 3])
    with bireme.Pool(1, keep, (lock, numbers), start_method="fork") as pool:
        assert pool.apply(lambda: [next(_inherited()[1]), _inherited()[0].locked()]) == [1, False]
    pool.join()
    assert next(numbers) == 1


def _inherited() -> tuple[Any, ...]:
    return _got


class Owner:
    """Has a pool that is set up by a method of its own: they refer to each other."""

    def __init__(self) -> None:
        self.pool = bireme.Pool(1, self.set_up, start_method="fork", maxtasksperchild=1)

    def set_up(self) -> None:
        keep("set up")


def test_a_pool_set_up_by_its_owner_goes_with_it():
    import gc
    import warnings

    owner = Owner()
    assert owner.pool.map(_what_is_kept, range(3), 1) == [("set up",)] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del owner
        gc.collect()
    gc.collect()
    assert not [found for found in gc.get_objects() if type(found) is Owner]


def _what_is_kept(_: int) -> tuple[Any, ...]:
    return _got


def test_workers_born_after_the_pool_is_gone_are_set_up_too():
    """Results that are still awaited keep them coming."""
    import warnings

    pool = bireme.Pool(1, keep, ("set up",), start_method="fork", maxtasksperchild=1)
    results = [pool.apply_async(_what_is_kept, (n,)) for n in range(5)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del pool
    assert [result.get(GENEROUS) for result in results] == [("set up",)] * 5
