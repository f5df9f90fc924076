"""Which items of `bireme.map` run in the caller: decided by a clock that the tests turn."""

from __future__ import annotations

import contextlib
import itertools

import pytest

with contextlib.suppress(ImportError):
    import numpy  # noqa: F401  (its threads start here, not inside of a test)

from bireme._inline import _MOST_ITEMS, Inline, _transport_s
from bireme._source import Source


class Clock:
    """A clock that only work moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(durations, *, workers=2, start_s=0.0, starts=None, can_start=True):
    """Run items that take `durations` seconds of a clock's time; give the `Inline` and whether all ran.

    The moments at which it would start a pool are added to `starts`.
    """
    clock = Clock()

    def start():
        starts.append(clock.now)
        return can_start

    def work(duration):
        clock.now += duration
        return duration

    source = Source(work, (durations,), False)
    inline = Inline(
        source,
        workers,
        start_s,
        start=None if starts is None else start,
        clock=clock,
        usage=lambda: (clock.now, 0),
    )
    done = inline.run()
    return inline, done, source


def test_small_work_stays():
    inline, done, _ = run([1e-6] * 100)
    assert done
    assert inline.results == [1e-6] * 100


@pytest.mark.parametrize("start_s", [0.0, 0.12])
def test_large_items_leave_after_the_first(start_s):
    inline, done, source = run([0.05] * 20, start_s=start_s)
    assert not done
    assert len(inline.results) == 1
    assert source.rest() == ([0.05] * 19, False)


def test_what_is_sampled_is_bounded():
    """A millisecond of items, not more, where the rest is far beyond break-even."""
    inline, done, _ = run([1e-5] * 100_000)
    assert not done
    assert sum(inline.results) <= 1e-3


def test_starting_a_pool_must_pay_too():
    durations = [1e-3] * 100  # 0.1 s: half of it would be won, and 0.12 s lost
    assert run(durations, start_s=0.12)[1]
    assert not run(durations, start_s=0.0)[1]


@pytest.mark.parametrize("item_s", [1e-5, 1e-3, 12e-3])
def test_a_pool_is_started_while_items_run_here(item_s):
    """At once when it promises to pay in the end; then it must pay for less."""
    starts = []
    durations = [item_s] * int(0.28 / item_s)
    assert run(durations, start_s=0.12)[1], "idle until it is there, nothing would be won"
    inline, done, _ = run(durations, start_s=0.12, starts=starts)
    assert not done
    (start,) = starts
    assert start <= max(2e-3, 3 * item_s)
    assert start < sum(inline.results) < 0.12


def test_no_pool_is_started_that_would_come_too_late():
    starts = []
    assert run([1e-3] * 120, start_s=0.12, starts=starts)[1]
    assert run([5e-3] + [1e-7] * 10_000, start_s=0.12, starts=starts)[1]
    assert run([0.1], start_s=0.12, starts=starts)[1]
    assert run([1e-3] * 280, workers=1, start_s=0.12, starts=starts)[1]
    assert not starts


def test_a_pool_that_cannot_start_leaves_the_items_here():
    starts = []
    inline, done, _ = run([1e-3] * 280, start_s=0.12, starts=starts, can_start=False)
    assert done
    assert len(starts) == 1
    assert len(inline.results) == 280


def test_a_slow_first_item_alone_does_not_decide():
    """It may have imported something: the second item is awaited."""
    inline, done, _ = run([5e-3] + [1e-7] * 1000, start_s=0.12)
    assert done
    assert len(inline.results) == 1001


def test_items_that_turn_heavy_leave():
    """However many cheap ones came before, and with all of a pool's start still to be paid."""
    cheap, heavy = 10_000, 200
    inline, done, _ = run([1e-5] * cheap + [0.05] * heavy, start_s=0.12)
    assert not done
    assert len(inline.results) - cheap < 10


def test_items_that_turn_heavy_are_noticed_within_a_slice():
    """Items of nanoseconds cannot be timed one by one: the bound is a slice."""
    inline, done, _ = run([5e-8] * 5000 + [0.05] * 5000)
    assert not done
    assert len(inline.results) - 5000 <= 2 * _MOST_ITEMS


@pytest.mark.parametrize("wrap", [list, iter])
def test_a_cheap_first_item_promises_nothing(wrap):
    """Often the item 0 has nothing to do."""
    clock = Clock()

    def work(number):
        clock.now += 0.05 if number else 0
        return number

    source = Source(work, (wrap(range(16)),), False)
    inline = Inline(source, 2, clock=clock, usage=lambda: (clock.now, 0))
    assert not inline.run()
    assert len(inline.results) <= 5


def test_one_hiccup_does_not_scare_long_runs_of_tiny_items():
    durations = [5e-8] * 100_000
    durations[50_000] = 10e-3  # another process had the core
    assert run(durations, start_s=0.12)[1]


@pytest.mark.parametrize(
    ("own", "waits", "stays"), [(1.0, 0, False), (0.1, 0, True), (0.1, 1, False)]
)
def test_time_that_others_took_does_not_count(own, waits, stays):
    """Unless items wait for something, only their time on a core could be saved."""
    clock = Clock()

    def work(item):
        clock.now += 1e-6

    def usage():
        return clock.now * own, int(clock.now * 1e6) * waits

    inline = Inline(Source(work, (range(100_000),), False), 2, clock=clock, usage=usage)
    assert inline.run() == stays


def test_a_single_worker_has_nothing_to_give():
    assert run([0.1] * 10, workers=1)[1]


def test_the_last_item_does_not_leave():
    assert run([0.5])[1]
    inline, done, _ = run([0.5, 0.5])
    assert done
    assert len(inline.results) == 2


def test_transport_counts():
    """Items of 1 us that take longer to send than to do stay, at any number."""
    clock = Clock()

    def work(item):
        clock.now += 1e-6
        return item

    item = {str(number): [number] * 100 for number in range(10)}
    inline = Inline(
        Source(work, ([item] * 50_000,), False), 2, clock=clock, usage=lambda: (clock.now, 0)
    )
    assert inline.run()
    assert inline.transport_s > 10e-6


@pytest.mark.parametrize(
    ("light", "heavy"),
    [
        (1, "text"),
        ("text", "text" * 10**6),
        ([1] * 10, [1] * 1000),
        ([1] * 1000, ["text"] * 1000),
        ({"a": 1}, {"a": {"b": {"c": 1}}}),
        (range(3), memoryview(bytes(10**6))),
    ],
)
def test_transport_of(light, heavy):
    assert 0 < _transport_s(light) < _transport_s(heavy) < 1


def test_transport_of_what_holds_itself():
    endless = []
    endless.append(endless)
    assert 0 < _transport_s(endless) < 1


# Sources -----------------------------------------------------------------------------------


def pack(*args):
    return args


def take_all(source, sizes=(1, 3, 2, 100)):
    taken = []
    for size in sizes:
        part = source.take(size)
        assert len(part) <= size
        taken.append([pack(*item) if source.star else pack(item) for item in part])
    return taken


@pytest.mark.parametrize("kind", [list, tuple, range, iter, set, "generator"])
def test_a_source_of_one_iterable(kind):
    items = range(8)
    made = (
        (number for number in items)
        if kind == "generator"
        else items
        if kind is range
        else kind(items)
    )
    taken = take_all(Source(pack, (made,), False))
    assert taken == [[(0,)], [(1,), (2,), (3,)], [(4,), (5,)], [(6,), (7,)]]


@pytest.mark.parametrize("wrap", [list, iter])
def test_a_source_of_several(wrap):
    taken = take_all(Source(pack, (wrap(range(5)), [9] * 9), False))
    assert taken == [[(0, 9)], [(1, 9), (2, 9), (3, 9)], [(4, 9)], []]
    taken = take_all(Source(pack, (wrap(range(2)), itertools.repeat(7)), False))
    assert taken == [[(0, 7)], [(1, 7)], [], []]


@pytest.mark.parametrize("wrap", [list, iter])
def test_a_source_of_arguments(wrap):
    taken = take_all(Source(pack, (wrap([(1, 2), (3,), ()]),), True))
    assert taken == [[(1, 2)], [(3,), ()], [], []]


@pytest.mark.parametrize(
    ("iterables", "star", "rest"),
    [
        ((range(9),), False, (range(2, 9), False)),
        (([1, 2, 3],), False, ([3], False)),
        ((iter([1, 2, 3]),), False, ([3], False)),
        (([1, 2, 3], "abc"), False, ([(3, "c")], True)),
        (([1, 2, 3], (4, 5, 6, 7)), False, ([(3, 6)], True)),
        ((iter([(1,), (2,), (3,)]),), True, ([(3,)], True)),
    ],
)
def test_the_rest(iterables, star, rest):
    source = Source(pack, iterables, star)
    assert len(source.take(2)) == 2
    assert source.rest() == rest
    assert source.left() == len(rest[0])


def test_arrays_are_cut_not_copied():
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(10.0)
    source = Source(float, (array,), False)
    assert source.total == 10
    assert list(source.take(3)) == [0.0, 1.0, 2.0]
    rest, star = source.rest()
    assert numpy.shares_memory(rest, array)
    assert not star


def test_growing_the_list_changes_nothing():
    """As in a pool, the items are those that were there at the call."""
    items = [1, 2, 3]

    def work(item):
        items.append(item)
        return item

    inline = Inline(Source(work, (items,), False))
    assert inline.run()
    assert inline.results == [1, 2, 3]


def test_shrinking_the_list_is_refused():
    """If more is gone than the slice that runs, which is a copy."""
    items = list(range(10_000))

    def work(item):
        del items[5:]
        return item

    with pytest.raises(RuntimeError, match="became shorter"):
        Inline(Source(work, (items,), False)).run()


# Exceptions --------------------------------------------------------------------------------


def failing(bad):
    seen = []

    def work(item):
        seen.append(item)
        if item in bad:
            raise bad[item]
        return item

    return work, seen


@pytest.mark.parametrize("wrap", [list, iter])
def test_the_lowest_index_is_raised_and_all_run(wrap):
    work, seen = failing({3: ValueError("three"), 700: KeyError("late")})
    inline = Inline(Source(work, (wrap(range(1000)),), False))
    assert inline.run()
    assert seen == list(range(1000))
    assert inline.failure.args == ("three",)
    assert len(inline.results) == 1000


@pytest.mark.parametrize("wrap", [list, iter])
@pytest.mark.parametrize("index", [0, 5, 9])
def test_stop_iteration_does_not_end_the_map(wrap, index):
    work, seen = failing({index: StopIteration()})
    inline = Inline(Source(work, (wrap(range(10)),), False))
    assert inline.run()
    assert seen == list(range(10))
    assert type(inline.failure) is StopIteration


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_the_map(kind):
    work, seen = failing({2: ValueError(), 5: kind()})
    inline = Inline(Source(work, (range(10),), False))
    with pytest.raises(kind):
        inline.run()
    assert seen == [0, 1, 2, 3, 4, 5]


def test_an_iterable_that_raises():
    def items():
        yield 1
        yield 2
        raise OSError("gone")

    inline = Inline(Source(str, (items(),), False))
    with pytest.raises(OSError, match="gone"):
        inline.run()
