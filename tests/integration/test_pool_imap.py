"""`imap` and `imap_unordered`: lazy, bounded, going on after an error."""

from __future__ import annotations

import itertools
import multiprocessing
import queue
import time
import weakref

import pytest

import bireme
from tests.integration import tasks
from tests.support.waiting import GENEROUS, poll

START_METHODS = ("template", "fork")  # all four with --every-start-method


@pytest.fixture(params=["imap", "imap_unordered"])
def imap(request, shared_pool):
    return getattr(shared_pool, request.param)


@pytest.mark.parametrize("chunksize", [1, 7, 100])
def test_values(imap, chunksize):
    assert sorted(imap(tasks.square, range(500), chunksize)) == [x * x for x in range(500)]
    assert list(imap(tasks.square, [], chunksize)) == []


@pytest.mark.parametrize("chunksize", [1, 7, 100])
def test_imap_keeps_the_order(shared_pool, chunksize):
    it = shared_pool.imap(tasks.square, range(500), chunksize=chunksize)
    assert iter(it) is it
    for x in range(500):
        assert next(it) == x * x
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(it)


def test_unordered_gives_the_fast_one_first(shared_pool, tmp_path):
    gates = [tmp_path / "0", tmp_path / "1"]
    it = shared_pool.imap_unordered(
        tasks.wait_for_pair, [(str(gate), i) for i, gate in enumerate(gates)]
    )
    gates[1].touch()
    assert next(it) == 1
    gates[0].touch()
    assert next(it) == 0


def test_an_infinite_generator_is_read_bounded(imap):
    """Read-ahead stays bounded at every moment, whatever has been taken."""
    read = 0

    def numbers():
        nonlocal read
        while True:
            read += 1
            yield read

    it = imap(tasks.square, numbers())
    ahead = []
    for taken in range(1, 2001):
        assert next(it) > 0
        ahead.append(read - taken)
    assert max(ahead) < 1000, "read-ahead is to be bounded"
    del it


@pytest.mark.parametrize("buffersize", [1, 2, 5])
def test_the_buffer_size_is_a_bound(shared_pool, buffersize):
    """At most `buffersize` items have been read whose results were not taken."""
    read = 0

    def numbers():
        nonlocal read
        while read < 100:
            read += 1
            yield read

    it = shared_pool.imap(tasks.square, numbers(), buffersize=buffersize)
    for taken in range(1, 101):
        assert read - (taken - 1) <= buffersize
        assert next(it) == taken * taken
    with pytest.raises(StopIteration):
        next(it)


def test_a_full_buffer_stops_the_reading(shared_pool):
    """Nothing more is read while nobody takes a result, however long that lasts."""
    seen: list[int] = []

    def numbers():
        for x in itertools.count():
            seen.append(x)
            yield x

    it = shared_pool.imap(tasks.square, numbers(), buffersize=4)
    assert next(it) == 0
    poll(lambda: len(seen) > 5, timeout=0.5)
    assert len(seen) <= 5
    assert [next(it) for _ in range(20)] == [x * x for x in range(1, 21)]


@pytest.mark.parametrize("bad", [0, -1])
def test_wrong_buffer_sizes_are_refused(imap, bad):
    with pytest.raises(ValueError, match="buffersize"):
        imap(tasks.square, [1], buffersize=bad)


def test_next_with_a_timeout(shared_pool, tmp_path):
    gate = tmp_path / "gate"
    it = shared_pool.imap(tasks.wait_for_file, [str(gate)])
    with pytest.raises(multiprocessing.TimeoutError):
        it.next(timeout=0.05)
    with pytest.raises(bireme.WaitTimeoutError):
        it.next(0)
    gate.touch()
    assert it.next(timeout=GENEROUS) is None
    with pytest.raises(StopIteration):
        it.next(timeout=GENEROUS)


def test_it_goes_on_after_a_failed_item(imap):
    outcomes = []
    it = imap(tasks.fail_on_odd, range(20))
    while True:
        try:
            outcomes.append(next(it))
        except ValueError as error:
            outcomes.append(-error.args[1])
        except StopIteration:
            break
    assert sorted(outcomes, key=abs) == [-x if x % 2 else x for x in range(20)]


def test_an_error_in_the_iterable_comes_in_its_place(shared_pool):
    def numbers():
        yield from range(3)
        raise KeyError("no more")

    it = shared_pool.imap(tasks.square, numbers())
    assert [next(it) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(KeyError, match="no more"):
        next(it)
    with pytest.raises(StopIteration):
        next(it)


def test_unordered_yields_what_came_before_the_error(shared_pool):
    def numbers():
        yield from range(10)
        raise KeyError("no more")

    it, got = shared_pool.imap_unordered(tasks.square, numbers()), []
    with pytest.raises(KeyError, match="no more"):
        got.extend(it)
    # `extend` keeps what it got before the exception
    assert set(got) <= {x * x for x in range(10)}


def test_the_input_may_wait_for_its_consumer(imap):
    items: queue.Queue[int] = queue.Queue()
    it = imap(tasks.square, iter(items.get, 0))
    for x in range(1, 50):
        items.put(x)
        assert next(it) == x * x
    items.put(0)
    with pytest.raises(StopIteration):
        next(it)


@pytest.mark.parametrize("pause", [0.001, 0.03])
def test_a_slow_input_that_comes_in_bursts(imap, pause):
    """Whether the reader has just begun, is at work, or has left: it reads on."""

    def numbers():
        for burst in range(20):
            time.sleep(pause)
            yield from range(burst)

    got = []
    for square in imap(tasks.square, numbers()):
        got.append(square)
        if square == 0:
            time.sleep(pause / 2)
    assert sorted(got) == sorted(x * x for burst in range(20) for x in range(burst))


def test_a_timeout_holds_while_the_input_waits(imap):
    items: queue.Queue[int] = queue.Queue()
    it = imap(tasks.square, iter(items.get, 0))
    with pytest.raises(bireme.WaitTimeoutError):
        it.next(timeout=0.05)
    items.put(3)
    assert it.next(timeout=GENEROUS) == 9
    items.put(0)


def test_an_exit_in_the_input_reaches_the_consumer(imap):
    def numbers():
        yield 2
        raise SystemExit(3)

    it = imap(tasks.square, numbers(), buffersize=1)
    assert next(it) == 4
    with pytest.raises(SystemExit):
        next(it)


def test_an_exit_while_an_item_is_pickled_reaches_the_consumer(imap):
    class Exiting:
        def __reduce__(self):
            raise SystemExit(3)

    it = imap(tasks.identity, (Exiting() for _ in range(3)))
    with pytest.raises(SystemExit):
        next(it)
    with pytest.raises(StopIteration):
        next(it)


def test_lazy_maps_that_are_dropped_while_their_input_waits(pool):
    """The iterator and its pool are collected; the thread that waits there does not hold them."""
    items: queue.Queue[int] = queue.Queue()
    it = pool.imap(tasks.square, iter(items.get, 0))
    items.put(1)
    assert next(it) == 1
    dropped = weakref.ref(it)
    del it
    assert dropped() is None
    items.put(0)


@pytest.mark.parametrize("kind", ["endless", "slow", "list", "blocked"])
def test_terminate_ends_the_reading(pool, kind):
    """What was submitted has an outcome, the rest of the input is said to be unread, and `join` returns."""
    items: queue.Queue[int] = queue.Queue()
    inputs = {
        "endless": itertools.count(),
        "slow": (time.sleep(0.1) for _ in itertools.count()),
        "list": list(range(100_000)),
        "blocked": iter(items.get, 0),
    }
    it = pool.imap(tasks.identity, inputs[kind])
    pool.terminate()
    pool.join()
    with pytest.raises(bireme.CancelledError):
        for _ in it:
            pass
    for _ in range(100):
        try:
            next(it)
        except StopIteration:
            break
        except bireme.CancelledError:
            pass
    else:
        raise AssertionError("it is endless")
    items.put(0)


def test_results_outlive_the_pool(make_pool):
    with make_pool(2) as pool:
        whole, part = pool.imap(tasks.square, range(8)), pool.imap(tasks.square, range(100))
        assert poll(lambda: pool.statistics()["outstanding"] == 0)
    assert list(whole) == [x * x for x in range(8)]
    assert list(itertools.islice(part, 8)) == [x * x for x in range(8)]
    with pytest.raises(bireme.CancelledError, match="before all of the input was read"):
        next(part)
    with pytest.raises(StopIteration):
        next(part)


def test_a_closed_pool_ends_though_a_lazy_map_was_dropped(make_pool):
    pool = make_pool(2)
    it = pool.imap(tasks.square, itertools.count())
    assert next(it) == 0
    pool.close()
    del it
    assert poll(lambda: not pool.worker_pids())


@pytest.mark.parametrize("items", [list, iter], ids=["list", "iterator"])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_lazy_map_that_nobody_looks_at_runs(make_pool, tmp_path, method, items):
    pool, seen = make_pool(2), tmp_path / "seen"
    getattr(pool, method)(tasks.append_line, items([(str(seen), x) for x in range(300)]), 7)
    pool.close()
    pool.join()
    assert sorted(map(int, seen.read_text().split())) == list(range(300))


def test_one_that_nobody_looks_at_ends_with_its_pool(pool):
    pool.imap(tasks.identity, itertools.count())
    pool.terminate()
    pool.join()


def test_the_end_of_the_program_ends_one_that_nobody_looks_at(run_script):
    for _ in range(10):
        run_script("""
            import itertools, time
            import bireme

            pool = bireme.Pool(2)
            pool.imap(abs, itertools.count())
            time.sleep(0.05)
        """).check()


def test_terminate_needs_no_descriptor(run_script):
    run_script("""
        import itertools, resource
        import bireme

        pool = bireme.Pool(2)
        it = pool.imap(abs, itertools.count())
        assert next(it) == 0
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            pool.terminate()
            pool.join()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert not pool.worker_pids()
        try:
            for _ in it:
                pass
        except bireme.CancelledError:
            pass
        else:
            raise AssertionError("it was not read to its end")
    """).check()


def test_branches_of_a_tee(shared_pool):
    first, second = itertools.tee(x for x in range(300) if time.sleep(0.0001) is None)
    pairs = zip(
        shared_pool.imap(tasks.square, first), shared_pool.imap(tasks.square, second), strict=True
    )
    assert list(pairs) == [(x * x, x * x) for x in range(300)]


def test_one_item_of_a_chunk_cannot_travel(imap):
    it, outcomes = imap(tasks.identity, [1, (x for x in []), 3], 3), []
    for _ in range(3):
        try:
            outcomes.append(next(it))
        except bireme.PicklingError:
            outcomes.append(2)
    assert sorted(outcomes) == [1, 2, 3]


def test_no_thread_for_the_reader(run_script):
    """It is said, nothing is lost, and the iterator goes on when there may be threads again."""
    run_script("""
        import _thread
        import bireme
        from bireme import _reader

        def none_left(*_):
            raise RuntimeError("can't start new thread")

        with bireme.Pool(1) as pool:
            pool.apply(abs, (-1,))
            _reader.start_new_thread = none_left
            it = pool.imap(abs, (-x for x in range(20)), buffersize=2)
            try:
                next(it)
            except bireme.ResourceLimitError as error:
                assert "can't start new thread" in str(error), error
            else:
                raise AssertionError("nobody reads")
            _reader.start_new_thread = _thread.start_new_thread
            assert list(it) == list(range(20))
    """).check()


def test_two_iterators_share_the_pool(shared_pool):
    first = shared_pool.imap(tasks.square, range(100))
    second = shared_pool.imap(tasks.square, range(100, 200))
    pairs = list(zip(first, second, strict=True))
    assert pairs == [(x * x, (x + 100) ** 2) for x in range(100)]


def test_an_abandoned_iterator_leaves_the_pool_free(shared_pool):
    for _ in range(20):
        it = shared_pool.imap(tasks.square, itertools.count())
        assert next(it) == 0
        del it
    assert shared_pool.map(tasks.square, range(10)) == [x * x for x in range(10)]


def test_large_items_are_bounded_by_bytes(shared_pool):
    """50 items of 8 MB through a pipe of two workers: all right, in order."""
    it = shared_pool.imap(tasks.identity, (bytes([i]) * 8_000_000 for i in range(50)))
    for i, value in enumerate(it):
        assert value[0] == value[-1] == i
        assert len(value) == 8_000_000


def test_an_input_whose_length_cannot_be_had(shared_pool):
    class Odd:
        def __len__(self):
            raise RuntimeError("nobody knows")

        def __iter__(self):
            return iter(range(5))

    assert list(shared_pool.imap(tasks.square, Odd())) == [0, 1, 4, 9, 16]
