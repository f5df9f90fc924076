"""One function of the caller is one function in the worker, under all its names."""

from __future__ import annotations

import pytest


def test_a_function_under_two_names_is_one(pair, script):
    main = script("""
        import functools
        def mse(a): return a * a
        loss = mse
        @functools.lru_cache
        def cached(a): return a
        other = cached
        key = lambda x: x
        again = key
        def work(): return loss is mse, other is cached, key is again
    """)
    assert pair.run(main.work) == (True, True, True)


def test_a_function_is_found_as_a_key(pair, script):
    main = script("""
        key = lambda x: x
        def make(n):
            def add(x): return x + n
            return add
        one, two = make(1), make(2)
        table = {key: 0, one: 1, two: 2}
        steps = (one, [two])
        class Plan:
            first = key
            steps = [one, two]
        def work():
            return table[key], table[steps[0]], table[steps[1][0]]
        def plan():
            return table[Plan.first], [table[step] for step in Plan.steps]
        def both():
            return work(), plan(), Plan.first is key
    """)
    assert pair.run(main.work) == (0, 1, 2)
    assert pair.run(main.plan) == (0, [1, 2])
    assert pair.run(main.both) == ((0, 1, 2), (0, [1, 2]), True)


def test_a_function_in_the_closure_of_a_decorated_one(pair, script):
    main = script("""
        import functools
        memo = {}
        def memoize(fn):
            memo[fn] = {}
            @functools.wraps(fn)
            def wrapper(x):
                return memo[fn].setdefault(x, fn(x))
            return wrapper
        @memoize
        def square(x): return x * x
        @memoize
        def even(n): return n == 0 or odd(n - 1)
        @memoize
        def odd(n): return n != 0 and even(n - 1)
        def known(): return square.__wrapped__ in memo and even.__wrapped__ in memo
    """)
    assert pair.run(main.square, 3) == 9
    assert [pair.run(main.even, 4), pair.run(main.even, 3), pair.run(main.known)] == [
        True,
        False,
        True,
    ]


def test_hooks_that_are_compared_with_the_default_one(pair, script):
    main = script("""
        class Plugin:
            def on_start(self): pass
        class Mine(Plugin):
            def on_start(self): return 1
        default = Plugin.on_start
        def overrides(cls): return cls.on_start is not default
        def work(): return overrides(Plugin), overrides(Mine)
    """)
    assert pair.run(main.work) == (False, True)
    main.default = main.Mine.on_start
    assert pair.run(main.work) == (True, False)


@pytest.mark.parametrize(
    "change",
    [
        "mse.__defaults__ = (7,)", "mse.__code__ = (lambda a=1: 7).__code__", "mse.note = 7",
        "key.__defaults__ = (7,)", "key.__code__ = (lambda a=1: 7).__code__", "key.note = 7",
    ],
)  # fmt: skip
def test_a_changed_function_is_a_new_one_under_all_its_names(pair, script, change):
    main = script("""
        def mse(a=1): return a
        key = lambda a=1: a
        loss, other = mse, key
        losses = {mse: mse, key: key}
        class Kept:
            first, second = [mse], [key]
        def values(*fns): return [(fn(), getattr(fn, "note", None)) for fn in fns]
        def work():
            same = mse is loss is losses[mse] is Kept.first[0], key is other is losses[key] is Kept.second[0]
            return same, values(mse, loss), values(key, other)
        def alone(): return values(loss, other)
    """)
    assert pair.run(main.work) == ((True, True), [(1, None)] * 2, [(1, None)] * 2)
    script(change, main)
    assert pair.run(main.alone) == main.alone()
    assert pair.run(main.work) == main.work()
    assert main.work()[0] == (True, True)


def test_a_function_that_was_sent_before_is_found_again(pair, script):
    main = script("""
        key = lambda x: x
        def first(): return key(1)
    """)
    assert pair.run(main.first) == 1
    script(
        """
        table, again = {key: 2}, key
        class Kept: value = key
        def second(): return table[key], again is key, Kept.value is key
    """,
        main,
    )
    assert pair.run(main.second) == (2, True, True)


def test_what_a_name_stood_for_is_kept_under_others(pair, script):
    main = script("""
        def mse(): return "old"
        def method(): return "other"
        class Model:
            def step(self): return "old"
        loss, steps, step = mse, (mse,), Model.step
        class Kept:
            steps = (mse,)
        def work(): return loss(), steps[0](), step(None), Kept.steps[0]()
        def more(): return work(), mse(), Model.step
    """)
    assert pair.run(main.work) == ("old",) * 4
    script("def mse(): return 'new'\nModel.step = lambda self: 'new'", main)
    assert pair.run(main.more)[:2] == (("old",) * 4, "new")
    del main.mse
    assert pair.run(main.work) == ("old",) * 4


def test_a_method_under_another_name_follows_its_class(pair, script):
    main = script("""
        class Model:
            def step(self): return 1
        step = Model.step
        def work(): return step(None), step is Model.step
    """)
    assert pair.run(main.work) == (1, True)
    script("Model.step.__code__ = (lambda self: 2).__code__", main)
    assert pair.run(main.work) == (2, True)
    script("Model.rate = 5", main)
    assert pair.run(main.work) == (2, True)


def test_what_a_task_binds_anew_stays_and_others_are_told(pair, script):
    main = script("""
        key = lambda x: x
        table = {key: 1}
        def work(): return table.get(key)
        def bind():
            global key
            key = None
        def other(): return [fn(3) for fn in table], more[0](4)
    """)
    assert pair.run(main.work) == 1
    pair.run(main.bind)
    assert pair.run(main.work) is None
    main.more = (main.key,)
    assert pair.run(main.other) == ([3], 4)


def test_thousands_of_functions_under_two_names(pair, script):
    main = script("""
        fns = {f"f{n}": lambda x, n=n: x + n for n in range(3000)}
        globals().update(fns)
        exec("def work(): return [" + ",".join(f"{n} is fns['{n}']" for n in fns) + "]")
    """)
    assert all(pair.run(main.work))
