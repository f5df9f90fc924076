"""By-value classes: one identity on both sides, between two real processes."""

from __future__ import annotations

import functools
import gc
import operator
import os
import sys
import threading
import weakref

import pytest

from bireme import _known, errors
from tests.support import serialization as support


@pytest.mark.parametrize(
    "expression",
    [
        "Point(1, 2)", "Slotted(3)", "Color.RED", "Flags.A | Flags.B", "Pair(1)", "Old(1, 2)",
        "Box([1])", "[Point(1), Point(2)]", "{Color.RED: Pair(1, 3)}",
    ],
)  # fmt: skip
def test_instances_come_back_as_the_callers_class(pair, script, expression):
    main = script(support.CLASSES)
    value = eval(expression, main.__dict__)
    before = attributes_of_classes(main)
    name, back = pair.run(main.echo, value)
    assert name == type(value).__name__
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, (main.Color, main.Flags)):
        assert back is value
    assert attributes_of_classes(main) == before


def attributes_of_classes(main):
    # `__slotnames__` is what pickle itself caches in every class.
    return {
        (name, key): value
        for name, cls in vars(main).items()
        if isinstance(cls, type)
        for key, value in vars(cls).items()
        if key != "__slotnames__"
    }


def test_classes_behave_in_the_worker(pair, script):
    main = script(
        support.CLASSES
        + """
    def work(point, color, square):
        assert isinstance(point, Point) and dataclasses.is_dataclass(Point)
        assert color is Color.RED and color.other() is Color.BLUE and Color(2) is Color.BLUE
        assert isinstance(square, Shape) and square.area() == 9
        assert Tagged().tag == "Tagged"
        made = Derived.make(1)
        assert (made.x, made.name(), made.double, Derived.twice(4)) == (2, "derived base", 4, 8)
        try:
            Shape()
        except TypeError:
            pass
        else:
            raise AssertionError("abstract")
        try:
            Slotted(1).nothing = 2
        except (AttributeError, TypeError):
            pass
        else:
            raise AssertionError("frozen")
        assert not hasattr(Slotted(1), "__dict__")
        return made, Derived, Derived.Inner(), Pair(1)._replace(b=5)
    """
    )
    made, cls, inner, pair_ = pair.run(
        main.work, main.Point(1), main.Color.RED, main.Square(3)
    )  # fmt: skip
    assert type(made) is main.Derived is cls
    assert type(inner) is main.Derived.Inner
    assert pair_ == main.Pair(1, 5)


def test_exceptions_are_the_callers(pair, script):
    main = script(
        support.CLASSES
        + """
    def fail(code):
        try:
            raise MyError(code, "detail")
        except MyError as error:
            assert error.code == code
            raise
    def catch(error):
        try:
            raise error
        except MyError as caught:
            return caught
    """
    )
    with pytest.raises(main.MyError) as raised:
        pair.run(main.fail, 3)
    assert raised.value.args == (3, "detail")
    assert raised.value.code == 3
    assert type(pair.run(main.catch, main.MyError(1, 2))) is main.MyError


def test_methods_go_with_their_instance(pair, script):
    main = script(support.CLASSES)
    made = main.Derived(1)
    assert pair.run(made.name) == "derived base"
    assert type(pair.run(main.Derived.make, 1)) is main.Derived
    assert pair.run(main.Derived.twice, 3) == 6
    assert pair.run(main.Derived.name, made) == "derived base"
    assert type(pair.run(main.Derived, 1)) is main.Derived
    made.x = 10
    assert pair.run(main.Derived.double.fget, made) == 20


def test_a_callable_instance_is_sent_again_when_it_changed(pair, script):
    main = script("""
        class Adder:
            def __init__(self, n):
                self.n = n
            def __call__(self, x):
                return x + self.n
    """)
    adder = main.Adder(1)
    assert pair.run(adder, 1) == 2
    adder.n = 5
    assert pair.run(adder, 1) == 6


def test_a_class_redefined_in_a_notebook(pair, script):
    main = script("""
        class Thing:
            def __init__(self, x): self.x = x
            def value(self): return self.x
        def work(thing):
            return thing.value(), isinstance(thing, Thing), thing, Thing(0)
    """)
    old_class = main.Thing
    old = main.Thing(1)
    assert pair.run(main.work, old)[:2] == (1, True)
    script(
        """
        class Thing:
            def __init__(self, x): self.x = x
            def value(self): return self.x * 100
        """,
        main,
    )
    value, known, back, made = pair.run(main.work, main.Thing(1))
    assert (value, known) == (100, True)
    assert type(back) is main.Thing is type(made)
    value, known, back, made = pair.run(main.work, old)
    assert (value, known) == (1, False)
    assert type(back) is old_class
    assert type(made) is main.Thing


def test_a_class_attribute_changed_between_submits(pair, script):
    main = script("""
        class Config:
            rate = 1
            table = {}
        def work():
            return Config.rate, Config.table
    """)
    assert pair.run(main.work) == (1, {})
    main.Config.rate = 2
    assert pair.run(main.work) == (2, {})
    main.Config.table["a"] = 1
    assert pair.run(main.work) == (2, {"a": 1})


def test_arguments_of_a_class_the_function_does_not_name(pair, script):
    main = script("""
        import math
        def helper(x): return math.floor(x)
        class Thing:
            def __init__(self, x): self.x = x
            def __setstate__(self, state): self.x = helper(state["x"])
            def __getstate__(self): return {"x": self.x}
        def work(thing): return thing
    """)
    back = pair.run(main.work, main.Thing(1.5))
    assert type(back) is main.Thing
    assert back.x == 1
    function = pair.encode(main.work)
    first, _ = pair.encoder.dumps((main.Thing(1),), known=function.carries)
    second, _ = pair.encoder.dumps((main.Thing(1),), known=function.carries | all_keys(pair))
    assert len(second) < len(first) / 3


FAMILY = """
    class Thing:
        rate = 2
        def __init__(self, x): self.x = x
        def value(self): return self.x * self.rate * scale
        def other(self): return "a method that makes the definition a little longer than the instance"
    class Other(Thing):
        def value(self): return -super().value()
    scale = 10
    def value(thing): return thing.value()
"""


def bytes_of(pair, run):
    """Count the bytes of arguments that `run` sends."""
    before = pair.arguments_bytes
    run()
    return pair.arguments_bytes - before


def test_what_arguments_need_comes_with_their_function(pair, script):
    main = script(FAMILY)
    first, second, third = (
        bytes_of(pair, lambda: pair.run(main.value, main.Thing(1))) for _ in range(3)
    )
    assert second == third < first / 4
    assert pair.sends == 2, "placed once more, not for each task"
    assert pair.run(main.value, main.Other(3)) == -60
    assert pair.run(main.value, main.Other(3)) == -60
    assert bytes_of(pair, lambda: pair.run(main.value, main.Other(3))) < first / 4
    assert bytes_of(pair, lambda: pair.run(main.value, main.Thing(3))) == third
    assert pair.sends == 3


@pytest.mark.parametrize("fn", [str, repr, operator.attrgetter("x"), functools.partial(getattr)])
def test_what_arguments_of_importable_functions_need(pair, script, fn):
    main = script(FAMILY)
    arguments = (main.Thing(1), "x") if isinstance(fn, functools.partial) else (main.Thing(1),)
    first, _, third = (bytes_of(pair, lambda: pair.run(fn, *arguments)) for _ in range(3))
    assert third < first / 4
    assert pair.run(operator.attrgetter("x"), main.Thing(5)) == 5


def test_a_worker_born_later_gets_what_arguments_need(pair, script):
    main = script(FAMILY)
    for _ in range(3):
        pair.run(main.value, main.Thing(1))
    assert pair.run(main.value, main.Thing(2), worker=pair.start_worker()) == 40
    assert pair.sends == 3


def test_what_arguments_need_may_change(pair, script):
    main = script(FAMILY)
    for rate in range(1, 4):
        main.Thing.rate = rate
        for _ in range(3):
            assert pair.run(main.value, main.Thing(1)) == 10 * rate
            assert pair.run(main.value, main.Other(1)) == -10 * rate
    main.scale = 100
    assert [pair.run(main.value, main.Thing(1)) for _ in range(3)] == [300] * 3
    run_again = bytes_of(pair, lambda: pair.run(main.value, main.Thing(1)))
    assert run_again == bytes_of(pair, lambda: pair.run(main.value, main.Thing(1)))
    script(FAMILY, module=main)
    assert [pair.run(main.value, main.Thing(1)) for _ in range(3)] == [20] * 3


def test_a_large_function_is_placed_anew_when_that_is_worth_it(pair, script):
    main = script(FAMILY)
    big = bytes(100_000)
    fn = lambda thing: thing.value() + len(big)  # noqa: E731
    for _ in range(20):
        assert pair.run(fn, main.Thing(1)) == 100_020
    assert pair.sends == 1
    for _ in range(500):
        assert pair.run(fn, main.Thing(1)) == 100_020
    assert pair.sends == 2


def test_a_function_does_not_grow_by_what_is_needed_once(pair, script):
    main = script("def kind(value): return type(value).__name__")
    for number in range(10):
        made = type(f"Made{number}", (), {"__module__": "__main__", "number": number})
        assert pair.run(main.kind, made()) == f"Made{number}"
    assert pair.sends == 1


def test_a_function_forgets_what_many_arguments_needed(pair, script, monkeypatch):
    monkeypatch.setattr(_known, "_NEEDED_MAX", 4)
    main = script("def kind(value): return type(value).__name__")
    kinds = [type(f"Made{n}", (), {"__module__": "__main__"}) for n in range(10)]
    for made in kinds * 2:
        for _ in range(3):
            assert pair.run(main.kind, made()) == made.__name__
    function = pair.encode(main.kind)
    *_, known = pair.place(function)
    assert len(known._needs.keys()) <= 5


def test_what_was_needed_and_cannot_be_sent_any_more_is_left_out(pair, script):
    main = script(FAMILY)
    script("class Third:\n    def value(self): return 3", module=main)
    for _ in range(3):
        pair.run(main.value, main.Thing(1))
    main.Thing.guard = threading.Lock()
    assert [pair.run(main.value, main.Third()) for _ in range(3)] == [3] * 3
    with pytest.raises(errors.PicklingError, match="lock"):
        pair.run(main.value, main.Thing(1))
    del main.Thing.guard
    assert pair.run(main.value, main.Thing(1)) == 20


def all_keys(pair):
    sender = pair.encoder._sender
    return {*sender._classes, *sender._names}


def test_local_classes_keep_their_identity(pair, script):
    main = script("""
        def make():
            class Local:
                def __init__(self, x): self.x = x
            return Local
        Kept = make()
        def work(thing): return thing
    """)
    local = main.make()
    for _ in range(2):
        back = pair.run(main.work, local(4))
        assert type(back) is local
        assert back.x == 4
    assert type(pair.run(main.work, main.Kept(1))) is main.Kept
    assert pair.run(lambda cls: cls, local) is local


def test_classes_made_in_the_worker_come_by_value(pair, script):
    main = script("""
        def work(x):
            class Made:
                def get(self): return self.x + offset
            made = Made()
            made.x = x
            return made
        offset = 10
        def function():
            return lambda x: x + offset
    """)
    made = pair.run(main.work, 4)
    assert (type(made).__name__, made.get()) == ("Made", 14)
    back = pair.run(main.function)
    assert back(1) == 11
    main.offset = 20
    assert back(1) == 21, "it uses the caller's own globals"


def test_a_class_of_the_worker_that_the_caller_dropped_comes_again(pair, script):
    main = script("""
        made = []
        def work():
            if not made:
                class Made: value = 5
                made.append(Made)
            return made[0]()
        def same():
            return work(), work()
    """)
    first = weakref.ref(type(pair.run(main.work)))
    gc.collect()
    assert first() is None
    assert pair.run(main.work).value == 5
    one, two = pair.run(main.same)
    assert type(one) is type(two)


def test_results_of_forked_workers_keep_local_classes(script):
    main = script("def make():\n class Local: pass\n return Local")
    local = main.make()
    encoder = support.Encoder(by_value_main=False)
    encoder.dumps(local)  # gives the class its id before the fork
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        payload, _ = support.Decoder(by_value_main=False).dumps_result(local())
        os.write(write, payload)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        payload = file.read()
    os.waitpid(child, 0)
    assert type(encoder.loads_result(payload)) is local
    assert len(payload) < 200


def test_ordinary_classes_leave_a_function_immutable(script):
    main = script(support.CLASSES)
    names = [name for name, value in vars(main).items() if isinstance(value, type)]
    script(f"def work(): return {', '.join(names)}", main)
    function = support.Encoder(by_value_main=True).encode_function(main.work)
    assert not function.mutable
    assert function.unchanged()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is new in 3.12")
def test_type_parameters(pair, script):
    main = script("""
        class Box[T]:
            def __init__(self, item: T): self.item = item
        def first[T](items: list[T]) -> T:
            return items[0]
        def work(box: Box[int]): return first([box]), box.item
    """)
    back, item = pair.run(main.work, main.Box(4))
    assert type(back) is main.Box
    assert item == 4


def test_enums_have_all_their_members_and_what_these_hold(pair, script):
    main = script("""
        import enum
        class Flag(enum.Flag):
            NONE = 0
            A = 1
            B = 2
            BOTH = 3
        class Planet(enum.Enum):
            EARTH = (1, 2)
            MARS = (3, 4)
            RED = (3, 4)
            def __init__(self, mass, radius):
                self.mass = mass
                self.radius = lambda: radius
        def flags():
            return repr([Flag.NONE, Flag.BOTH, Flag(0), ~Flag.A, *Flag]), Flag.A | Flag.B is Flag.BOTH
        def planets():
            return Planet.RED is Planet.MARS, Planet.RED.mass, Planet.EARTH.radius(), list(map(str, Planet))
    """)
    assert pair.run(main.flags) == main.flags()
    assert pair.run(main.planets) == main.planets()


def test_sentinels_of_importable_modules_are_the_workers_own(pair, script, tmp_path, monkeypatch):
    (tmp_path / "with_sentinel.py").write_text(
        "class _Missing: pass\n"
        "class Setting:\n"
        "    value = None\n"
        "MISSING, SETTING = _Missing(), Setting()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    main = script("""
        import dataclasses, with_sentinel
        @dataclasses.dataclass
        class Point:
            x: int
            _: dataclasses.KW_ONLY
            y: list = dataclasses.field(default_factory=list)
        def defaults():
            return [f.default is dataclasses.MISSING for f in dataclasses.fields(Point)]
        def inherit():
            @dataclasses.dataclass
            class Named(Point):
                name: str = dataclasses.field(kw_only=False)
            return Named(1, "n").name
        def is_missing(found): return [found[0] is with_sentinel.MISSING, found[1:]]
        def setting(found): return found[0].value, found[0] is with_sentinel.SETTING
    """)
    assert pair.run(main.defaults) == [True, True]
    assert pair.run(main.inherit) == "n"
    missing = main.with_sentinel.MISSING
    found = pair.run(main.is_missing, [missing, lambda: missing])
    assert found[0]
    assert found[1][0]() is missing
    setting = main.with_sentinel.SETTING
    setting.value = 5
    assert pair.run(main.setting, [setting, lambda: 0]) == (5, False), "one that holds something"


def test_what_a_task_makes_in_globals_of_its_own_can_be_returned(pair, script):
    main = script("""
        import collections, typing
        def rows():
            class Typed(typing.NamedTuple):
                a: int = 1
            Row = collections.namedtuple("Row", "x y")
            return Row, Row(1, 2), Typed, Typed()
        def functions():
            variables = {"log": []}
            exec('''if True:
                import os.path
                def even(n): log.append(n); return n == 0 or odd(n - 1)
                def odd(n): log.append(n); return n != 0 and even(n - 1)
                class Both:
                    def both(self, n): return even(n), odd(n), os.path.join("a", "b")
            ''', variables)
            return variables["even"], variables["odd"], variables["log"], variables["Both"]()
        def again(row): return type(row), row, row._replace(x=5)
        def refused():
            variables = {}
            exec("import threading; lock = threading.Lock(); f = lambda: lock", variables)
            return variables["f"]
    """)
    row_class, row, typed_class, typed = pair.run(main.rows)
    assert (type(row), row, type(typed), typed) == (row_class, (1, 2), typed_class, (1,))
    assert pair.run(main.again, row) == (row_class, row, (5, 2))
    even, odd, log, both = pair.run(main.functions)
    assert (even(2), odd(3), log) == (True, True, [2, 1, 0, 3, 2, 1, 0])
    assert even.__globals__ is odd.__globals__
    assert both.both(2) == (True, False, "a/b")
    with pytest.raises(RuntimeError, match="global 'lock'"):
        pair.run(main.refused)


def test_classes_inside_of_others_keep_their_full_name(pair, script):
    main = script("""
        import ctypes, dataclasses, pickle, typing
        class Outer:
            @dataclasses.dataclass
            class Point: x: int
            class Row(typing.NamedTuple): a: int = 1
            class Keys(typing.TypedDict): a: int
            class Record(ctypes.Structure): _fields_ = [("a", ctypes.c_int)]
            class Error(Exception): pass
        def make():
            @dataclasses.dataclass(slots=True)
            class Local: x: int
            return Local
        def names(local):
            classes = (getattr(Outer, name) for name in ("Point", "Row", "Keys", "Record", "Error"))
            return [repr(Outer.Point(1)), repr(local), *(cls.__qualname__ for cls in classes)]
        def copied(point): return pickle.loads(pickle.dumps(point)) == point == Outer.Point(3)
    """)
    assert pair.run(main.names, main.make()(2)) == [
        "Outer.Point(x=1)", "make.<locals>.Local(x=2)",
        "Outer.Point", "Outer.Row", "Outer.Keys", "Outer.Record", "Outer.Error",
    ]  # fmt: skip
    assert pair.run(main.copied, main.Outer.Point(3))


def test_methods_with_a_class_cell_of_a_dataclass_with_slots(pair, script):
    main = script("""
        import dataclasses
        class Base:
            __slots__ = ()
            @classmethod
            def kind(cls): return "base"
        @dataclasses.dataclass(slots=True)
        class Slotted(Base):
            name: str
            other: int = 3
            def cls(self): return __class__.__name__
            def twice(self): return self.name * 2
            @classmethod
            def kind(cls): return super().kind() if cls is __class__ else "twin"
        def work(given):
            return given.cls(), given.twice(), repr(given), Slotted("b"), hasattr(given, "__dict__")
        def back(given): return given, Slotted
    """)
    found = pair.run(main.work, main.Slotted("a"))
    assert found == ("Slotted", "aa", "Slotted(name='a', other=3)", main.Slotted("b"), False)
    assert pair.run(main.back, main.Slotted("a")) == (main.Slotted("a"), main.Slotted)
    assert pair.run(main.Slotted.twice, main.Slotted("c")) == "cc"
    assert pair.run(main.Slotted.kind) == main.Slotted.kind()
