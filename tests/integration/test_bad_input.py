"""Bad input: an error at once that names the argument, its value and what was expected."""

from __future__ import annotations

import os

import pytest

import bireme
from tests.integration import tasks

HUGE = 2**80
NAN = float("nan")


@pytest.mark.parametrize(
    ("arguments", "kind", "name"),
    [
        ({"processes": "two"}, TypeError, "processes"),
        ({"processes": 0}, ValueError, "processes"),
        ({"processes": 10**6}, ValueError, "processes"),
        ({"initializer": 5}, TypeError, "initializer"),
        ({"initargs": 5}, TypeError, "initargs"),
        ({"maxtasksperchild": 0}, ValueError, "maxtasksperchild"),
        ({"maxtasksperchild": 1.5}, ValueError, "maxtasksperchild"),
        ({"context": 5}, TypeError, "context"),
        ({"context": "foo"}, ValueError, "context"),
        ({"start_method": "foo"}, ValueError, "start_method"),
        ({"name": 5}, TypeError, "name"),
        ({"name": "\udcff"}, ValueError, "name"),
        ({"name": "a\0b"}, ValueError, "name"),
        ({"seed": "x"}, TypeError, "seed"),
        ({"seed": -1}, ValueError, "seed"),
        ({"forward_output": "no"}, TypeError, "forward_output"),
        ({"max_pending": 0}, ValueError, "max_pending"),
        ({"max_pending": "x"}, TypeError, "max_pending"),
        ({"max_pending": HUGE}, ValueError, "max_pending"),
        ({"object_memory": 5}, ValueError, "object_memory"),
        ({"object_memory": HUGE}, ValueError, "object_memory"),
    ],
)
def test_a_pool_names_the_argument(arguments, kind, name):
    (value,) = arguments.values()
    with pytest.raises(kind, match=f"^{name}.* must be .*, got ") as caught:
        bireme.Pool(**{"processes": 1, **arguments})
    assert repr(value) in str(caught.value)


CALLS = [
    (lambda pool: pool.apply(5), TypeError, "func"),
    (lambda pool: pool.apply(abs, 5), TypeError, "args"),
    (lambda pool: pool.apply(abs, (1,), 5), TypeError, "kwds"),
    (lambda pool: pool.apply_async(abs, (1,), callback=5), TypeError, "callback"),
    (lambda pool: pool.apply_async(abs, (1,), error_callback=5), TypeError, "error_callback"),
    (lambda pool: pool.map(5, [1]), TypeError, "func"),
    (lambda pool: pool.map(abs, 5), TypeError, "iterable"),
    (lambda pool: pool.imap(abs, 5), TypeError, "iterable"),
    (lambda pool: pool.map(abs, [1], 0), ValueError, "chunksize"),
    (lambda pool: pool.map(abs, [1], HUGE), ValueError, "chunksize"),
    (lambda pool: pool.map(abs, [1], 1.5), TypeError, "chunksize"),
    (lambda pool: pool.imap(abs, [1], buffersize="a"), TypeError, "buffersize"),
    (lambda pool: pool.imap(abs, [1], buffersize=0), ValueError, "buffersize"),
    (lambda pool: pool.map(abs, [1], task_timeout="a"), TypeError, "task_timeout"),
    (lambda pool: pool.map(abs, [1], task_timeout=0), ValueError, "task_timeout"),
    (lambda pool: pool.map(abs, [1], task_timeout=float("nan")), ValueError, "task_timeout"),
    (lambda pool: pool.map(abs, [1], task_timeout=10**400), ValueError, "task_timeout"),
    (lambda pool: pool.map(abs, [1], retries=-1), ValueError, "retries"),
    (lambda pool: pool.map(abs, [1], retries="a"), TypeError, "retries"),
    (lambda pool: pool.map(abs, [1], seed=HUGE), ValueError, "seed"),
    (lambda pool: pool.options(name=5), TypeError, "name"),
    (lambda pool: bireme.map(5, [1]), TypeError, "fn"),
    (lambda pool: bireme.map(abs, [1], workers=0), ValueError, "workers"),
    (lambda pool: bireme.map(abs, [1], workers="2"), TypeError, "workers"),
    (lambda pool: bireme.map(abs, [1], inline="x"), TypeError, "inline"),
    (lambda pool: bireme.map(abs, [1], retries=""), TypeError, "retries"),
    (lambda pool: bireme.imap(abs, [1], buffersize="a", inline=True), TypeError, "buffersize"),
    (lambda pool: bireme.refresh(5), TypeError, "fn"),
    (lambda pool: bireme.map(abs, None), TypeError, r"iterables\[0\]"),
    (lambda pool: bireme.map(pow, [1], None), TypeError, r"iterables\[1\]"),
    (lambda pool: bireme.starmap(pow, None), TypeError, r"iterables\[0\]"),
    (lambda pool: bireme.imap(pow, [1], 5), TypeError, r"iterables\[1\]"),
    (lambda pool: bireme.imap(abs, None, inline=True), TypeError, r"iterables\[0\]"),
    (lambda pool: bireme.map(abs, [1], progress="x"), TypeError, "progress"),
    (lambda pool: bireme.map(abs, [1], explain="x"), TypeError, "explain"),
    (lambda pool: pool.map(abs, [1], progress="x"), TypeError, "progress"),
    (lambda pool: pool.apply_async(tasks.slow, (1, 0.2)).get("a"), TypeError, "timeout"),
    (lambda pool: pool.apply_async(tasks.slow, (1, 0.2)).wait([]), TypeError, "timeout"),
    (lambda pool: pool.apply_async(tasks.slow, (1, 0.2)).get(NAN), ValueError, "timeout"),
    (lambda pool: pool.imap(abs, [1]).next("a"), TypeError, "timeout"),
    (lambda pool: pool.imap(abs, [1]).next(NAN), ValueError, "timeout"),
]


def test_a_call_names_the_argument(make_pool):
    pool = make_pool(1)
    for call, kind, name in CALLS:
        with pytest.raises(kind, match=f"^{name} must be .*, got ") as caught:
            call(pool)
        assert len(str(caught.value)) < 200
    assert pool.map(abs, [-1]) == [1], "nothing was lost"


def test_what_to_retry_needs_a_number_of_retries(make_pool):
    pool = make_pool(1)
    with pytest.raises(ValueError, match="retries=1"):
        pool.map(abs, [1], retry_on=OSError)
    with pytest.raises(ValueError, match="retries=1"):
        bireme.map(abs, [1], retry_on=OSError)
    assert pool.options(retry_on=OSError).map(abs, [-1], retries=1) == [1]


def test_errors_call_a_task_by_the_name_it_was_given(make_pool):
    pool = make_pool(1)
    named = pool.options(name="the report")
    with pytest.raises(bireme.WorkerDiedError, match="the report") as caught:
        named.apply(os._exit, (3,))
    assert caught.value.task == "the report"
    with pytest.raises(bireme.WorkerDiedError, match="the report"):
        named.map(os._exit, [3])


def test_a_time_limit_is_told(make_pool):
    pool = make_pool(1)
    with pytest.raises(bireme.TaskTimeoutError, match=r"slow on item 1 .* of 0\.25 s") as caught:
        pool.starmap(tasks.slow, [(1, 0), (2, 30)], task_timeout=0.25)
    assert caught.value.__notes__
