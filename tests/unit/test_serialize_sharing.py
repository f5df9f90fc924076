"""By-value classes: objects that they share with names and with each other."""

from __future__ import annotations

import pytest

SHARED = """
    import enum
    MISSING = object()
    class Options(dict):
        def read(self, key, default=MISSING):
            value = self.get(key, default)
            if value is MISSING: raise KeyError(key)
            return value
    plugins = {}
    class Plugin: plugins = plugins
    plugins.update(cls=Plugin, one=Plugin())
    class Holder: pass
    Holder.only = only = Holder()
    class Base: EMPTY = object()
    class Derived(Base):
        def is_empty(self, value=Base.EMPTY): return value is Base.EMPTY
    class Member(enum.Enum): A = 1
    Member.A.extra = MISSING
    class Left: peers = []
    class Right: peers = Left.peers
    Left.peers += [Left, Right, Left(), Right()]
    def helper(value=MISSING): return value is MISSING
    class Helped:
        help = staticmethod(helper)
        missing = MISSING
    helper.owner = Helped()
    def make():
        n = 0
        class Counter:
            def up(self):
                nonlocal n
                n += 1
        def get(): return n
        return Counter, get
    Counter, get = make()
    def default(): return Options(a=1).read("a"), Options().read("b", 2), Options().read("b")
    def attribute(): return Plugin.plugins is plugins and plugins["cls"] is Plugin
    def instance(): return plugins["one"].plugins is plugins
    def single(): return Holder.only is only
    def inherited(): return Derived().is_empty()
    def member(): return Member.A.extra is MISSING
    def circle(): return Left.peers is Right.peers and Left.peers[1] is Right
    def function(): return Helped.help() and Helped.missing is MISSING and type(helper.owner) is Helped
    def captured():
        Counter().up()
        return get() > 0
    def touch(): return Options, Plugin, Holder, Base, Member, Left, Counter, Helped
    def names(): return MISSING, plugins, only, get, helper
"""
SHARERS = [
    "attribute", "instance", "single", "inherited", "member", "circle", "function", "captured",
]  # fmt: skip


@pytest.mark.parametrize("name", SHARERS)
@pytest.mark.parametrize("first", ["", "touch", "names"])
def test_what_a_class_shares_is_one_object_in_the_worker(pair, script, name, first):
    main = script(SHARED)
    if first:
        pair.run(eval(f"lambda: {first}() and None", main.__dict__))
    assert pair.run(getattr(main, name)) is True
    assert pair.run(getattr(main, name), worker=pair.start_worker()) is True


def test_the_default_of_a_method_that_is_a_global(pair, script):
    main = script(SHARED)
    with pytest.raises(KeyError, match="b"):
        pair.run(main.default)


@pytest.mark.parametrize("name", SHARERS)
def test_a_class_that_has_changed_still_shares(pair, script, name):
    main = script(SHARED)
    work = getattr(main, name)
    assert pair.run(work) is True
    for cls in (main.Plugin, main.Holder, main.Derived, main.Left, main.Helped, main.Counter):
        cls.changed = 1
    assert pair.run(work) is True
    assert pair.run(work, worker=pair.start_worker()) is True


def test_what_tasks_put_into_a_shared_object_stays_when_a_class_comes(pair, script):
    main = script("""
        registry = {}
        def register(): registry["task"] = 1
        class Plugin: registry = registry
        def work(): return Plugin.registry is registry, registry
    """)
    pair.run(main.register)
    assert pair.run(main.work) == (True, {"task": 1})


def test_a_look_at_a_class_is_no_change_of_it(pair, script):
    """What tasks have put into it stays."""
    main = script("""
        import copy, pickle, typing
        class Cache:
            data = {}
        def work(key):
            Cache.data[key] = 1
            return len(Cache.data)
        def look():
            typing.get_type_hints(Cache), Cache.__annotations__
            pickle.dumps(Cache()), copy.copy(Cache())
    """)
    assert [pair.run(main.work, key) for key in range(3)] == [1, 2, 3]
    main.look()
    assert [pair.run(main.work, key) for key in range(3, 6)] == [4, 5, 6]
