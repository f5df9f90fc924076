"""Every kind of callable, between two real processes."""

from __future__ import annotations

import functools
import itertools
import operator
import os
import pickle
import subprocess
import sys
import threading
import types
import unittest.mock

import pytest

from tests.support import serialization as support


def test_lambdas_closures_and_partials(pair, script):
    main = script("""
        import functools
        base = 5
        square = lambda x: x * x
        def counter(start):
            n = start
            def count():
                nonlocal n
                n += base
                return n
            return count
        count = counter(1)
        def work(): return square(base)
    """)
    assert pair.run(lambda x: x + 1, 1) == 2
    assert pair.run(main.work) == 25
    assert [pair.run(main.count) for _ in range(2)] == [6, 11]
    assert main.count() == 6
    assert pair.run(functools.partial(main.square), 4) == 16
    assert pair.run(functools.partial(lambda a, b, c=0: (a, b, c), 1, c=3), 2) == (1, 2, 3)
    assert pair.run(functools.partial(operator.add, 1), 2) == 3


def test_a_local_function_that_calls_itself(pair):
    def depth(n):
        return n if n == 0 else 1 + depth(n - 1)

    assert pair.run(depth, 4) == 4


def test_decorated_and_cached_functions(pair, script):
    main = script("""
        import functools
        def twice(fn):
            @functools.wraps(fn)
            def wrapper(*args):
                return 2 * fn(*args)
            return wrapper
        @twice
        def work(x):
            "Doc."
            return x + 1
        @functools.lru_cache(maxsize=None)
        def fib(n):
            return n if n < 2 else fib(n - 1) + fib(n - 2)
        @functools.cache
        def token():
            return object()
        def same():
            return token() is token() and fib.cache_parameters()["maxsize"] is None
        @functools.singledispatch
        def kind(x): return "object"
        @kind.register
        def _(x: int): return "int"
        class Lazy:
            @functools.cached_property
            def value(self): return 7
        def lazy(): return Lazy().value
        def doc(): return work.__doc__, work.__name__, work(1)
    """)
    assert pair.run(main.work, 3) == 8
    assert pair.run(main.doc) == ("Doc.", "work", 4)
    assert pair.run(main.fib, 30) == 832040
    assert pair.run(main.same) is True
    assert pair.run(main.kind, 3) == "int"
    assert pair.run(main.kind, "a") == "object"
    assert pair.run(main.lazy) == 7


def test_generator_and_async_functions(pair, script):
    main = script("""
        import asyncio
        def numbers(n):
            yield from range(n)
        async def later(x):
            await asyncio.sleep(0)
            return x
        def work(): return list(numbers(3)), asyncio.run(later(4))
    """)
    assert pair.run(main.work) == ([0, 1, 2], 4)


def test_defaults_attributes_and_annotations(pair, script):
    main = script("""
        def work(a, b=[1], *, c={"k": 2}, d: int = 3):
            return a, b, c, d, work.note, work.__annotations__["d"]
        work.note = "n"
    """)
    assert pair.run(main.work, 0) == (0, [1], {"k": 2}, 3, "n", int)
    main.work.__defaults__[0].append(9)
    assert pair.run(main.work, 0)[1] == [1, 9]
    main.work.note = "m"
    assert pair.run(main.work, 0)[4] == "m"


@pytest.mark.parametrize(
    ("fn", "args", "value"),
    [
        (len, ([1, 2],), 2),
        (operator.itemgetter(1), ("ab",), "b"),
        (str.upper, ("a",), "A"),
        ("x".join, (["a", "b"],), "axb"),
        (int, ("7",), 7),
        (os.path.basename, ("a/b",), "b"),
        (functools.reduce, (operator.add, [1, 2]), 3),
    ],
)
def test_what_plain_pickle_carries(pair, fn, args, value):
    assert pair.run(fn, *args) == value


def test_functions_by_reference_are_stable(pair):
    function = pair.encoder.encode_function(os.path.basename)
    assert function.stable
    assert function.unchanged()
    assert function.payload == pickle.dumps(os.path.basename, 5)
    assert function.name == "posixpath.basename"


def test_without_by_value_main_members_go_by_reference(script):
    pair = support.Pair(by_value_main=False)
    main = script("def work(x): return x + offset\noffset = 1\nadd = lambda x: x + offset")
    try:
        assert not pair.encoder.needs_by_value(main.work)
        assert pair.encoder.encode_function(main.work).stable
        # A worker that has the script: here its names are set by hand.
        pair.worker.eval("globals().update(offset=100, work=lambda x: x + 100)")
        assert pair.run(main.work, 1) == 101
        assert pair.run(main.add, 1) == 101, "the worker's own globals"
    finally:
        pair.close()


def test_a_worker_is_a_caller_too(pair, script):
    main = script("""
        class Thing:
            def __init__(self, x): self.x = x
        offset = 1
        def inner(thing): return Thing(thing.x + offset)
        def outer(thing):
            global offset
            offset = 10
            import serialization as support
            nested = support.Pair()
            try:
                return nested.run(inner, thing)
            finally:
                nested.close()
    """)
    back = pair.run(main.outer, main.Thing(1))
    assert type(back) is main.Thing
    assert back.x == 11
    assert main.offset == 1


def test_many_threads_encode_at_once(script):
    main = script(
        support.CLASSES + "\n    table = {}\n    def work(p): return table, Derived, Pair, echo(p)"
    )
    encoder = support.Encoder(by_value_main=True)
    expected = encoder.encode_function(main.work).digest
    found = []

    def encode():
        for i in range(20):
            found.append(encoder.encode_function(main.work).digest)
            found.append(encoder.encode_function(main.work).digest)
            encoder.dumps((main.Point(i), main.Box(i)))

    threads = [threading.Thread(target=encode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {expected}
    assert len(found) == 160


def test_importing_the_module_is_light():
    heavy = "{'cloudpickle', 'inspect', 'typing', 'typing_extensions', 'concurrent.futures', " \
        "'multiprocessing', 'numpy', 'dis', 'ast', 'asyncio', 'hashlib'}"  # fmt: skip
    code = f"import sys; import bireme.serialize; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert out.stdout.strip() == "[]"


class _Endless:
    """Answers every question, always with something new."""

    def __getattr__(self, name):
        return _Endless()

    def __call__(self, *args):
        return ()


class _Hostile:
    """Has attributes that raise."""

    @property
    def func(self):
        raise RuntimeError("no func")

    def __getattr__(self, name):
        raise AttributeError(name) if name.startswith("__get") else RuntimeError(f"no {name}")

    def __call__(self, x):
        return x


@pytest.mark.parametrize("make", [unittest.mock.Mock, _Endless, _Hostile])
def test_names_of_callables_whose_attributes_are_made_up(make):
    from bireme.serialize import function_label, function_name

    fn = make()
    assert function_name(fn) == f"{type(fn).__module__}.{type(fn).__qualname__} object"
    assert function_label(fn) == f"the {type(fn).__name__} object"
    nested = functools.partial(functools.partial(functools.partial(abs)))
    assert function_name(nested) == "partial of builtins.abs"


def test_callables_whose_attributes_are_made_up(pair):
    assert pair.run(unittest.mock.Mock(return_value=5), 1) == 5
    assert pair.run(_Hostile(), 2) == 2
    lock = threading.Lock()
    mock = unittest.mock.Mock(side_effect=lambda: lock)
    with pytest.raises(support.errors.PicklingError, match=r"Mock object.*lock"):
        pair.encoder.encode_function(mock)


def test_an_endless_container_does_not_hang_the_explanation(pair):
    class Endless(list):
        def __iter__(self):
            return itertools.count()

        def __reduce__(self):
            return (list, ())

    holder = types.SimpleNamespace(first=Endless(), lock=threading.Lock())
    with pytest.raises(support.errors.PicklingError, match=r"\.lock is a _thread.lock"):
        pair.encoder.dumps(holder)


def test_assertions_in_local_functions_of_a_test_module(pair):
    """Pytest has rewritten them here; the worker imports the module as it is."""

    def check(x):
        assert x == 5, "not five"

    check(5)
    pair.run(check, 5)
    with pytest.raises(AssertionError, match="not five\nassert 4 == 5"):
        pair.run(check, 4)
