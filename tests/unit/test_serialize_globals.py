"""Globals that come late, go, or pickle as nothing but their name, between two real processes."""

from __future__ import annotations

import functools
import sys

import pytest

from tests.support import serialization as support

# Names that go and come


def test_a_deleted_name_is_gone_in_the_worker(pair, script):
    main = script("""
        CFG = 1
        def read(): return CFG
        def through(): return read()
        def work(): return CFG
    """)
    assert [pair.run(main.read), pair.run(main.through)] == [1, 1]
    del main.CFG
    for fn in (main.read, main.through, main.work, lambda: main.read()):
        with pytest.raises(NameError, match="CFG"):
            pair.run(fn)
    main.CFG = 2
    assert [pair.run(main.read), pair.run(main.work)] == [2, 2]


def test_a_deleted_name_is_gone_even_if_a_task_has_set_it(pair, script):
    main = script("""
        CFG = 1
        def put():
            global CFG
            CFG = 5
        def read(): return CFG
    """)
    assert pair.run(main.read) == 1
    pair.run(main.put)
    assert pair.run(main.read) == 5
    del main.CFG
    with pytest.raises(NameError, match="CFG"):
        pair.run(main.read)


def test_the_first_value_of_a_name_that_a_task_has_set_before(pair, script):
    main = script("""
        def put():
            global CFG
            CFG = "worker"
        def read(): return CFG
    """)
    pair.run(main.put)
    assert pair.run(main.read) == "worker"
    main.CFG = "caller"
    assert pair.run(main.read) == "caller"
    pair.run(main.put)
    assert pair.run(main.read) == "worker"
    main.CFG = "again"
    assert pair.run(main.read) == "again"


def test_a_name_that_a_task_has_set_stays_when_a_new_function_names_it(pair, script):
    main = script("""
        def put(): globals()["CFG"] = "worker"
        def read(): return CFG
        def more(): return CFG
    """)
    pair.run(main.put)
    assert [pair.run(main.read), pair.run(main.more)] == ["worker", "worker"]
    main.CFG = "caller"
    assert [pair.run(main.read), pair.run(main.more)] == ["caller", "caller"]


def test_a_name_that_comes_after_the_function_was_sent(pair, script):
    main = script("def helper(): return later\ndef work(): return helper()")
    with pytest.raises(NameError, match="later"):
        pair.run(main.work)
    main.later = 3
    assert pair.run(main.work) == 3


def test_a_builtin_that_is_shadowed_for_a_while(pair, script):
    main = script("def work(): return len('abc')")
    assert pair.run(main.work) == 3
    main.len = lambda _: -1
    assert pair.run(main.work) == -1
    del main.len
    assert pair.run(main.work) == 3


def test_builtins_in_arguments_are_not_taken_for_names_to_send(pair, script):
    main = script("def work(fn): return fn('abc')")
    function = pair.encode(main.work)
    short, _ = pair.encoder.dumps((lambda x: len(x),), known=function.carries)
    assert b"_rebuild\nenter" not in short


def test_values_that_look_each_other_up_while_they_are_read(pair, script):
    """Whatever their order in the stream."""
    main = script("""
        def twice(fn):
            def wrapper(x, helper=None):
                return 2 * wrapper.inner(x)
            wrapper.inner = fn
            return wrapper
        second = twice(lambda x: first(x) + third(x))
        second.partner = None
        def work(x): return second(x)
        def first(x): return x
        def third(x): return 10 * x
        second.partner = third
    """)
    assert pair.run(main.work, 1) == 22


# Objects that pickle as a name

NAMED = """
    import copyreg, enum, functools, typing
    UserId = typing.NewType("UserId", int)
    T, P, Ts = typing.TypeVar("T"), typing.ParamSpec("P"), typing.TypeVarTuple("Ts")
    class Missing:
        def __init__(self): self.note = "none"
        def __reduce__(self): return "MISSING"
    MISSING = Missing()
    class Slotted:
        __slots__ = ("note",)
        def __reduce__(self): return "SLOTTED"
    SLOTTED = Slotted()
    SLOTTED.note = "slot"
    class Registered:
        def __init__(self): self.note = "registered"
    REGISTERED = Registered()
    copyreg.pickle(Registered, lambda _: "REGISTERED")
    class Holder:
        class Kind:
            note = "inner"
            def __reduce__(self): return "Holder.KIND"
        KIND = Kind()
    @functools.lru_cache
    class Cached:
        def __init__(self, x): self.x = x
    @enum.global_enum
    class Level(enum.IntEnum):
        LOW = 1
"""


def test_a_new_type_in_code_and_in_annotations_only(pair, script):
    main = script(
        NAMED
        + """
    def annotated(x: UserId) -> dict[UserId, T]: return x
    def used(x): return UserId(x), UserId.__supertype__, UserId.__name__
    def echo(x): return x is UserId, x
    """
    )
    assert pair.run(main.annotated, 1) == 1
    assert pair.run(main.used, 2) == (2, int, "UserId")
    assert pair.run(main.echo, main.UserId) == (True, main.UserId)
    assert not pair.encode(main.used).mutable


@pytest.mark.parametrize(
    "name", ["MISSING", "SLOTTED", "REGISTERED", "Holder.KIND", "P", "Ts", "Level.LOW"]
)
def test_what_pickles_as_a_name_is_one_object_on_either_side(pair, script, name):
    main = script(
        NAMED
        + f"""
    def same(given, more): return given is {name} is more[0], getattr(given, "note", None)
    def give(): return {name}
    """
    )
    obj = functools.reduce(getattr, name.split("."), main)
    assert pair.run(main.same, obj, [obj]) == (True, getattr(obj, "note", None))
    if name != "REGISTERED":  # what `copyreg` was told stays in the caller
        assert pair.run(main.give) is obj


def test_a_cached_class_and_what_hides_in_closures(pair, script):
    main = script(
        NAMED
        + """
    def make():
        local, missing = typing.NewType("Local", UserId), MISSING
        def work(x): return local(x), local.__supertype__ is UserId, missing is MISSING
        return work
    work = make()
    def cached(): return Cached(1) is Cached(1), Cached(1).x
    """
    )
    assert pair.run(main.work, 1) == (1, True, True)
    assert pair.run(main.cached) == (True, 1)


def test_one_that_does_not_tell_what_it_is_made_of(script):
    main = script("""
        class Opaque:
            def __reduce__(self): return "nowhere"
            def __getstate__(self): raise TypeError("cannot pickle 'Opaque' object")
        def work(): return opaque
        opaque = Opaque()
    """)
    with pytest.raises(support.errors.PicklingError, match=r"global 'opaque'.*Opaque"):
        support.Encoder(by_value_main=True).encode_function(main.work)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is new in 3.12")
def test_type_aliases(pair, script):
    main = script("""
        type Number = int
        type Json = dict[str, Json] | list[Json] | Number
        type Many[T] = list[T]
        type Tree[T, *Ts] = list[T] | dict[str, Tree[T, *Ts]] | tuple[*Ts]
        type Unknown = Nowhere
        def work[T, **Q](x: Json, y: Many[int] = (), z: Unknown = 0) -> Number:
            assert Json.__value__.__args__[2] is Number and Number.__value__ is int
            assert Many.__value__.__args__ == Many.__type_params__
            return Number, Json, Many, Unknown, x
        def tree(found):
            items, nested, rest = Tree.__value__.__args__
            assert found.__origin__ is nested.__args__[1].__origin__ is Tree
            assert items.__args__[0] is nested.__args__[1].__args__[0] is Tree.__type_params__[0]
            return found, Tree.__module__, [p.__name__ for p in Tree.__type_params__], Tree
    """)
    found = pair.run(main.work, main.Json)
    assert found == (main.Number, main.Json, main.Many, main.Unknown, main.Json)
    found = pair.run(main.tree, main.Tree[int, str])
    assert found == (main.Tree[int, str], "__main__", ["T", "Ts"], main.Tree)
    pair.run(lambda given: given, main.Tree)


def test_classes_of_a_result_stay_until_it_is_read(pair, script):
    """Nothing but the stream refers to them then, and a collection may come at any moment."""
    main = script("""
        import gc
        class Collects:
            def __reduce__(self): return (gc.collect, ())
        def work():
            return Collects(), type("Local", (), {"value": 7})()
    """)
    assert pair.run(main.work)[1].value == 7
