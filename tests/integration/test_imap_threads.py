"""One iterator of `imap`, `imap_unordered` or `bireme.imap`, shared by several threads."""

from __future__ import annotations

import threading
import time
from itertools import chain

import pytest

import bireme
from bireme._submit import start_imap
from tests.integration import tasks
from tests.support.waiting import GENEROUS

START_METHODS = ("template",)  # all four with --every-start-method


@pytest.fixture(params=["imap", "imap_unordered", "read here"])
def imap(request, shared_pool):
    """Maps that have a thread to read a generator, and the one below `bireme.imap`, which has not."""
    if request.param != "read here":
        return getattr(shared_pool, request.param)

    def imap(func, items, chunksize=1, buffersize=None):
        return start_imap(
            shared_pool, func, items, chunksize, buffersize, True, {}, reads_here=True
        )

    return imap


def slowly(count):
    for number in range(count):
        time.sleep(0.001)
        yield number


def take_all(it, threads=4):
    """Let threads take results until each has seen the end; give what each got, and the errors."""
    got, errors = [[] for _ in range(threads)], []

    def take(mine):
        while True:
            try:
                mine.append(next(it))
            except StopIteration:
                return
            except Exception as error:
                errors.append(error)

    takers = [threading.Thread(target=take, args=(mine,), daemon=True) for mine in got]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join(GENEROUS)
    assert not any(taker.is_alive() for taker in takers), "a thread got stuck"
    return got, errors


@pytest.mark.parametrize("chunksize", [1, 7])
@pytest.mark.parametrize("items", [range, slowly])
def test_each_result_is_given_once(imap, items, chunksize):
    got, errors = take_all(imap(tasks.square, items(300), chunksize))
    assert not errors
    assert sorted(chain(*got)) == [x * x for x in range(300)]


def test_each_thread_gets_its_results_in_order(shared_pool):
    got, errors = take_all(shared_pool.imap(tasks.square, slowly(300), 7))
    assert not errors
    assert all(mine == sorted(mine) for mine in got)


def test_failed_items_are_raised_once(imap):
    got, errors = take_all(imap(tasks.fail_on_odd, range(100), 3))
    assert sorted(chain(*got)) == list(range(0, 100, 2))
    assert sorted(error.args[1] for error in errors) == list(range(1, 100, 2))


@pytest.mark.parametrize("chunksize", [1, 7])
def test_an_error_of_the_input_reaches_one_thread(imap, chunksize):
    def numbers():
        yield from slowly(50)
        raise KeyError("no more")

    got, errors = take_all(imap(tasks.square, numbers(), chunksize))
    assert [error.args for error in errors] == [("no more",)]
    whole_chunks = range(50 - 50 % chunksize)
    assert sorted(chain(*got)) == [x * x for x in whole_chunks]


def test_who_can_take_a_result_does_not_wait_for_the_input(imap):
    """One thread reads on when it has taken a result; here that lasts until others took two more."""
    more = threading.Semaphore(0)

    def numbers():
        yield from range(3)
        if more.acquire(timeout=GENEROUS) and more.acquire(timeout=GENEROUS):
            yield 3

    it, got = imap(tasks.square, numbers(), buffersize=3), []

    def take():
        for square in it:
            got.append(square)
            more.release()

    takers = [threading.Thread(target=take, daemon=True) for _ in range(2)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join(2 * GENEROUS)
    assert sorted(got) == [0, 1, 4, 9]


def test_a_timeout_holds_while_another_thread_reads(imap):
    gate, reading = threading.Event(), threading.Event()

    def numbers():
        yield 1
        reading.set()
        gate.wait(GENEROUS)
        yield 2

    it = imap(tasks.square, numbers(), buffersize=1)
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.extend(it))
    reader.start()
    try:
        assert reading.wait(GENEROUS)
        with pytest.raises(bireme.WaitTimeoutError):
            it.next(timeout=0.05)
        with pytest.raises(bireme.WaitTimeoutError):
            it.next(0)
    finally:
        gate.set()
        reader.join()
    assert got == [1, 4]


def test_closing_it_ends_every_thread(imap):
    it = imap(tasks.square, iter(int, 1))
    closer = threading.Timer(0.2, it.close)
    closer.start()
    _, errors = take_all(it)
    closer.join()
    assert not errors


def test_a_closed_one_gives_nothing_more(imap):
    it = imap(tasks.square, range(100), 10)
    assert next(it) in range(100**2)
    it.close()
    with pytest.raises(StopIteration):
        next(it)


def test_input_that_uses_the_results_is_refused(imap):
    def numbers():
        yield 2
        yield next(it)  # there: the result of the first
        yield next(it)  # its own result

    it = imap(tasks.square, numbers(), buffersize=1)
    assert next(it) == 4
    with pytest.raises(RuntimeError, match="depends on more input"):
        next(it)
    with pytest.raises(StopIteration):
        next(it)


def test_input_that_uses_another_iterator_and_the_pool(shared_pool):
    first = shared_pool.imap(tasks.square, slowly(30))
    second = shared_pool.imap_unordered(
        tasks.square, (shared_pool.apply(tasks.square, (x,)) for x in first)
    )
    got, errors = take_all(second)
    assert not errors
    assert sorted(chain(*got)) == [x**8 for x in range(30)]


def test_joining_while_threads_take(pool):
    it = pool.imap_unordered(tasks.square, slowly(200), 3)
    joiner = threading.Thread(target=lambda: (pool.close(), pool.join()), daemon=True)
    joiner.start()
    got, errors = take_all(it)
    joiner.join(GENEROUS)
    assert not joiner.is_alive()
    assert not errors
    assert sorted(chain(*got)) == [x * x for x in range(200)]


@pytest.mark.parametrize("option", ["inline=True", "inline=True, seed=1", "workers=2"])
def test_the_iterator_of_one_call(run_script, option):
    run_script(f"""
        import threading, time
        import bireme

        def items():
            for number in range(100):
                time.sleep(0.001)
                yield number

        def work(x):
            return x, bireme.rng().integers(2**40) if {"seed" in option} else 0

        def take():
            try:
                for result in it:
                    got.append(result)
            except BaseException as error:
                got.append(error)

        got, it = [], bireme.imap(work, items(), {option})
        threads = [threading.Thread(target=take) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert sorted(got) == list(bireme.imap(work, range(100), {option}))
    """).check()


def test_an_interrupt_ends_it_for_all(run_script):
    run_script("""
        import itertools, os, signal, threading, time
        import bireme

        def take():
            for _ in it:
                pass
            ended.append(1)

        ended = []
        with bireme.Pool(2) as pool:
            it = pool.imap_unordered(time.sleep, itertools.repeat(0.01))
            threads = [threading.Thread(target=take) for _ in range(3)]
            [thread.start() for thread in threads]
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                for _ in it:
                    pass
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("it is endless")
            [thread.join() for thread in threads]
            assert len(ended) == 3
            assert pool.map(abs, [-1, 2]) == [1, 2]
    """).check()


def test_a_forked_child_is_told(run_script):
    run_script("""
        import os, threading, time
        import bireme

        def numbers():
            yield 1
            reading.set()
            gate.wait()

        reading, gate = threading.Event(), threading.Event()
        with bireme.Pool(1) as pool:
            it = pool.imap(abs, numbers(), buffersize=1)
            reader = threading.Thread(target=list, args=(it,))
            reader.start()
            reading.wait()
            child = os.fork()
            if child == 0:
                try:
                    next(it)
                except bireme.ForkedError:
                    os._exit(0)
                os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
            gate.set()
            reader.join()
    """).check()
