"""Calls of `bireme.map` inside of tasks, and the random streams of either.

Each test is a program of its own, since the pool belongs to the process.
"""

from __future__ import annotations

import textwrap

import pytest

from tests.unit.test_default_pool import PRELUDE, needs


@pytest.fixture
def run(run_script):
    def run(body, **options):
        return run_script(PRELUDE + textwrap.dedent(body), **options).check()

    return run


@pytest.mark.parametrize("call", ["map", "starmap", "imap"])
def test_it_runs_in_the_tasks_worker(run, call):
    run(f"""
        def outer(_):
            items = [(1,)] * 5 if {call!r} == "starmap" else [1] * 5
            return os.getpid(), set(bireme.{call}(pid, items, workers=2))
        for mine, nested in bireme.map(outer, range(6), inline=False):
            assert nested == {{mine}} and mine != os.getpid()
    """)


def test_errors_there(run):
    run("""
        def inner(x):
            if x > 2:
                raise ValueError(x)
            return x
        def outer(_):
            return raised(ValueError, bireme.map, inner, range(9), inline=False).args
        assert bireme.map(outer, range(3), inline=False) == [(3,)] * 3
        error = raised(ValueError, bireme.map, lambda _: bireme.map(inner, range(9)), range(3), inline=False)
        assert error.args == (3,)
    """)


def test_a_time_limit_is_the_innermost_tasks(run):
    run("""
        def inner(x):
            time.sleep(3600 if x == 1 else 0)
            return x, os.getpid()
        def outer(_):
            error = raised(bireme.TaskTimeoutError, bireme.map, inner, range(3), task_timeout=0.3)
            (zero, where), = bireme.map(inner, [0], task_timeout=30)
            return type(error).__name__, zero, where != os.getpid()
        assert bireme.map(outer, range(2), inline=False) == [("TaskTimeoutError", 0, True)] * 2
    """)


def test_a_death_is_the_innermost_tasks(run):
    run("""
        def inner(x):
            if x == 1 and not os.path.exists("died"):
                open("died", "w").close()
                os._exit(3)
            return x
        def outer(_):
            return os.getpid(), bireme.map(inner, range(3), retries=1)
        (before, values), = bireme.map(outer, [0], inline=False, workers=1)
        assert values == [0, 1, 2]
        assert bireme.map(pid, [0], inline=False, workers=1) == [before], "the outer worker died"
    """)


def test_the_outer_limit_ends_what_runs_inside(run):
    run("""
        def inner(x):
            open("inner", "w").write(str(os.getpid()))
            time.sleep(3600)
        def outer(_):
            return bireme.map(inner, [0], task_timeout=3000)
        raised(bireme.TaskTimeoutError, bireme.map, outer, [0], task_timeout=2)
        poll(lambda: not alive(int(open("inner").read())))
        assert bireme.map(abs, [-1], inline=False) == [1]
    """)


# Streams -----------------------------------------------------------------------------------

STREAMS = """
import random
def draw(_):
    return random.random()
def inner(_):
    return random.random(), random.getrandbits(99)
def outer(x):
    before = random.random()
    nested = bireme.map(inner, range(3), seed=5)
    again = list(bireme.imap(inner, range(3), seed=5))
    assert nested == again
    return before, nested, random.random()
def plain(x):
    return random.random(), random.random()
"""


def test_nested_streams_follow_the_path(run):
    run(
        STREAMS
        + """
reference = bireme.map(outer, range(8), seed=1, workers=1)
for options in ({"workers": 2}, {"workers": 2, "chunksize": 3}, {"inline": True}, {"start_method": "fork"}):
    assert bireme.map(outer, range(8), seed=1, **options) == reference, options
assert list(bireme.imap(outer, range(8), seed=1)) == reference
assert list(bireme.imap(outer, range(8), seed=1, inline=True)) == reference
streams = [pair for _, nested, _ in reference for pair in nested]
assert len(set(streams)) == 24, "two items share a stream"
assert bireme.map(outer, range(8), seed=2) != reference
# The outer item's stream goes on as if nothing had been between.
assert [(before, after) for before, _, after in reference] == bireme.map(plain, range(8), seed=1)
# Without a seed outside, the inner one alone decides.
alone = bireme.map(inner, range(3), seed=5)
assert bireme.map(lambda _: bireme.map(inner, range(3), seed=5), range(2), inline=False) == [alone] * 2
"""
    )


def test_supervised_nested_calls_draw_the_same(run):
    """Whether it runs in the task's worker or, for a time limit, in one of its own."""
    run(
        STREAMS
        + """
def both(_):
    return [bireme.map(inner, range(4), seed=9, task_timeout=limit) for limit in (None, 60)]
for here, there in bireme.map(both, range(2), seed=1):
    assert here == there
def unseeded(_):
    return bireme.map(draw, range(4), task_timeout=60), bireme.map(draw, range(4), task_timeout=60)
first = bireme.map(unseeded, range(2), seed=1)
assert first == bireme.map(unseeded, range(2), seed=1, workers=1)
assert len({value for pair in first for four in pair for value in four}) == 16
"""
    )


@pytest.mark.parametrize("numpy", [False, pytest.param(True, marks=needs("numpy"))])
def test_the_callers_generators_stay_as_they_were(run, numpy):
    run(
        STREAMS
        + f"""
if {numpy}:
    import numpy
    def draw(_):
        return random.random(), float(numpy.random.random()), float(bireme.rng().random())
def state():
    return random.getstate(), {numpy} and str(numpy.random.get_state())
before = state()
results = [bireme.map(draw, range(5), seed=1, inline=inline) for inline in (None, True, False)]
assert results[0] == results[1] == results[2]
assert list(bireme.imap(draw, range(5), seed=1, inline=True)) == results[0]
def fail(_):
    raise ValueError
raised(ValueError, bireme.map, fail, range(3), seed=1, inline=True)
assert state() == before
"""
    )


@needs("numpy")
def test_numpy_imported_by_the_item_itself(run):
    """Its legacy state is the item's, in the first item of a worker as in the others."""
    run("""
        def draw(_):
            import numpy
            return float(numpy.random.random())
        one = bireme.map(draw, range(6), seed=1, workers=1)
        assert bireme.map(draw, range(6), seed=1, workers=3, chunksize=1) == one
        assert "numpy" not in sys.modules
        assert bireme.map(draw, range(6), seed=1, inline=True) == one
        import numpy
        assert bireme.map(draw, range(6), seed=1, inline=True) == one
        assert not any(type(finder).__name__ == "_AwaitsNumpy" for finder in sys.meta_path)
    """)


def test_a_seed_does_not_reach_into_later_calls(run):
    run(
        STREAMS
        + """
drawn = []
for _ in range(3):
    bireme.map(draw, range(4), seed=1, workers=1)
    drawn += bireme.map(draw, range(4), inline=False, workers=1)
assert len(set(drawn)) == 12, "calls without a seed repeat each other"
"""
    )


def test_a_second_attempt_starts_the_streams_again(run):
    run(
        STREAMS
        + """
def flaky(x):
    value = random.random()
    name = f"tried-{x}"
    if not os.path.exists(name):
        open(name, "w").close()
        raise OSError
    return value
expected = bireme.map(draw, range(4), seed=3)
assert bireme.map(flaky, range(4), seed=3, retries=1, retry_on=OSError) == expected
for x in range(4):
    os.unlink(f"tried-{x}")
assert bireme.map(flaky, range(4), seed=3, retries=1, retry_on=OSError, inline=True) == expected
"""
    )
