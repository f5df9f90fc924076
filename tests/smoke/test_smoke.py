"""What must work on every interpreter, from the wheel: one test an idea, seconds in all."""

from __future__ import annotations

import itertools
import operator
import os
import queue
import signal
import subprocess
import sys
import textwrap

import pytest

import bireme

# A guarded wait: long enough for the slowest machine, short enough to name the culprit.
WAIT = 60


def square(number: int) -> int:
    return number * number


def fail(number: int) -> None:
    raise LookupError(f"no {number} here")


def nested(number: int) -> int:
    return sum(bireme.map(square, range(number)))


@pytest.fixture(scope="module")
def pool():
    with bireme.Pool(2) as pool:
        yield pool


def test_map_keeps_order(pool):
    assert pool.map(square, range(1000)) == [n * n for n in range(1000)]


def test_explicit_chunks(pool):
    assert pool.map(square, range(14), chunksize=3) == [n * n for n in range(14)]


def test_starmap(pool):
    assert pool.starmap(operator.add, [(1, 2), (3, 4)]) == [3, 7]


def test_apply_async(pool):
    results = [pool.apply_async(square, (n,)) for n in range(200)]
    assert [result.get(timeout=WAIT) for result in results] == [n * n for n in range(200)]


def test_callback(pool):
    seen = queue.SimpleQueue()
    pool.apply_async(square, (3,), callback=seen.put)
    assert seen.get(timeout=WAIT) == 9


def test_lambda_and_closure(pool):
    offset = 7
    assert pool.map(lambda n: n + offset, [1, 2, 3]) == [8, 9, 10]


def test_imap_is_lazy(pool):
    squares = pool.imap(square, itertools.count())
    assert list(itertools.islice(squares, 20)) == [n * n for n in range(20)]
    squares.close()


def test_imap_unordered(pool):
    assert sorted(pool.imap_unordered(square, range(50))) == [n * n for n in range(50)]


def test_exception_keeps_its_story(pool):
    with pytest.raises(LookupError, match="no 5 here") as caught:
        pool.apply(fail, (5,))
    assert "in fail" in str(caught.value.__cause__)


def test_worker_death_hurts_one_task_only():
    with bireme.Pool(2) as pool:
        dead = pool.apply_async(lambda: os.kill(os.getpid(), signal.SIGKILL))
        others = [pool.apply_async(square, (n,)) for n in range(20)]
        with pytest.raises(bireme.WorkerDiedError) as caught:
            dead.get(timeout=WAIT)
        assert caught.value.signal == signal.SIGKILL
        assert [other.get(timeout=WAIT) for other in others] == [n * n for n in range(20)]


def test_task_timeout():
    with bireme.Pool(1) as pool:
        with pytest.raises(TimeoutError):
            pool.map(lambda _: signal.pause(), [0], task_timeout=0.2)
        assert pool.apply(square, (3,)) == 9


@pytest.mark.parametrize("start_method", ["template", "fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_start_method(start_method):
    with bireme.Pool(1, start_method=start_method) as pool:
        assert pool.map(square, [1, 2, 3]) == [1, 4, 9]


def test_nested_map():
    assert bireme.map(nested, [3, 4, 5], workers=2, inline=False) == [5, 14, 30]


def test_numpy_there_and_back(pool):
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1_000_000, dtype=numpy.float64)
    doubled = pool.apply(operator.mul, (array, 2))
    assert doubled.dtype == array.dtype
    assert numpy.array_equal(doubled, array * 2)


def test_seed_does_not_depend_on_the_workers():
    pytest.importorskip("numpy")

    def draw(_):
        return bireme.rng().random()

    one = bireme.map(draw, range(20), workers=1, seed=42)
    assert one == bireme.map(draw, range(20), workers=2, seed=42, chunksize=3)
    assert len(set(one)) == 20


def test_script_needs_no_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import bireme
            print("body")
            factor = 3
            def scale(n):
                return n * factor
            print(sum(bireme.map(scale, range(10), inline=False)))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
        cwd=tmp_path,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("body\n135\n", "", 0)
