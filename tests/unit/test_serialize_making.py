"""What runs while by-value classes and instances are rebuilt finds its globals, and each other."""

from __future__ import annotations

import pytest


def test_a_named_tuple_that_a_function_names(pair, script):
    main = script("""
        import collections, typing
        Old = collections.namedtuple("Old", "x y")
        class New(typing.NamedTuple):
            x: int
            y: int = 2
        class Holder:
            ORIGIN = Old(5, 6)
            TABLE = {New(7): "seven"}
        FIRST, SECOND = Old(1, 2), New(3)
        def work(x):
            return x - FIRST.x, SECOND, FIRST._replace(y=4), Holder.ORIGIN, Holder.TABLE[New(7)]
        def default(point=Old(8, 9)):
            return point
    """)
    values = (9, main.SECOND, main.Old(1, 4), main.Old(5, 6), "seven")
    assert pair.run(main.work, 10) == values
    assert pair.run(main.default) == main.Old(8, 9)


def test_instances_whose_making_uses_globals(pair, script):
    main = script("""
        class Key:
            def __init__(self, n): self.n = n
            def __hash__(self): return scaled(self.n)
            def __eq__(self, other): return self.n == other.n
        def scaled(n): return hash(n * SCALE.factor)
        class Scale:
            factor = 10
            def __reduce__(self): return (made, (UNIT,))
            def table(self): return TABLE  # they need each other
        def made(unit): return Scale()
        UNIT, SCALE = "m", Scale()
        TABLE, SET = {Key(1): "one"}, frozenset([Key(2)])
        class Settings:
            def __getstate__(self): return {"own": 1}
            def __setstate__(self, state): self.all = {**DEFAULTS, **state}
        DEFAULTS, SETTINGS = {"other": 2}, Settings()
        def work():
            return TABLE[Key(1)], Key(2) in SET, SETTINGS.all, SCALE.table() is TABLE
        def get(table, key):
            return table[key]
    """)
    assert pair.run(main.work) == ("one", True, {"own": 1, "other": 2}, True)
    assert pair.run(main.get, {main.Key(3): "three"}, main.Key(3)) == "three"


def test_a_name_that_is_nowhere_is_an_error(pair, script):
    main = script("""
        class Settings:
            def __getstate__(self): return {"own": 1}
            def __setstate__(self, state): self.all = missing
        SETTINGS = Settings()
        def work():
            return SETTINGS.all
    """)
    with pytest.raises(NameError, match="missing"):
        pair.run(main.work)
    main.missing = 4
    assert pair.run(main.work) == 4


def test_a_class_whose_attributes_are_its_own_instances(pair, script):
    main = script("""
        class Colour:
            scale = 3
            def __init__(self, n): self.n = n
            def __hash__(self): return hash(self.n * self.scale + OFFSET)
            def __eq__(self, other): return self.n == other.n
            def __getstate__(self): return self.n
            def __setstate__(self, n): self.n = n
        OFFSET = 4
        Colour.RED = Colour(1)
        Colour.ALL = {Colour.RED: "red"}
        def work():
            return Colour.RED.n, Colour.ALL[Colour(1)]
        def get(colour):
            return colour.ALL[colour]
    """)
    assert pair.run(main.get, main.Colour(1)) == "red"
    assert pair.run(main.work) == (1, "red")


def test_classes_that_keep_their_instances(pair, script):
    main = script("""
        class Single:
            only = None
            def __new__(cls):
                if cls.only is None: cls.only = super().__new__(cls)
                return cls.only
        SINGLE = Single()
        SINGLE.value = 4
        class Word(str):
            known = {}
            def __new__(cls, text):
                if text not in cls.known: cls.known[text] = super().__new__(cls, text)
                return cls.known[text]
        WORD = Word("a")
        def work():
            return Single() is SINGLE, SINGLE.value, Word("a") is WORD
    """)
    assert pair.run(main.work) == (True, 4, True)


def test_globals_are_set_in_the_order_of_their_making(pair, script):
    main = script("""
        class Scale:
            def __init__(self, factor): self.factor = factor
        class Key:
            def __init__(self, n): self.n = n
            def __hash__(self): return hash(self.n * SCALE.factor)
            def __eq__(self, other): return self.n == other.n
        TABLE, SCALE = {}, Scale(10)
        TABLE[Key(1)] = "old"
        def work():
            return TABLE.get(Key(1))
    """)
    assert pair.run(main.work) == "old"
    main.SCALE = main.Scale(7)
    main.TABLE = {main.Key(1): "new"}
    assert pair.run(main.work) == "new"


def test_typed_dicts_that_inherit(pair, script):
    main = script("""
        import typing
        class Options(typing.TypedDict, total=False):
            a: int
        class More(Options):
            b: str
        def work():
            return More(b="x"), More.__required_keys__, More.__optional_keys__
    """)
    assert pair.run(main.work) == ({"b": "x"}, {"b"}, {"a"})


def test_a_base_that_refers_to_its_subclass(pair, script):
    main = script("""
        class Err(Exception):
            by_code = {}
        class NotFound(Err):
            pass
        Err.by_code[404] = NotFound
        class Shape:
            known = []
        class Square(Shape):
            pass
        Shape.known.append(Square)
        class A: pass
        class B(A): pass
        A.partner, A.instance, B.instance = B, B(), A()
        def fail():
            raise NotFound("x")
        def work(shape):
            return type(shape) is Square, Shape.known == [Square], Err.by_code[404] is NotFound
        def partner(b):
            return type(b) is A.partner is type(A.instance) is B, type(B.instance) is A
    """)
    with pytest.raises(main.NotFound, match="x"):
        pair.run(main.fail)
    assert pair.run(main.work, main.Square()) == (True, True, True)
    assert pair.run(main.partner, main.B()) == (True, True)


HOOKS = """
    REGISTRY, CALLS, LIMIT = {}, [], 3
    class Plugin:
        names = []
        def __init_subclass__(cls, /, key, **kwargs):
            super().__init_subclass__(**kwargs)
            if not hasattr(cls, "run"):
                raise TypeError("a plugin has run()")
            cls.key = key
            cls.names.append(key)
            REGISTRY[cls.__name__] = cls
    class Csv(Plugin, key="csv"):
        def run(self): return self.key, self.names, sorted(REGISTRY)
    class Meta(type):
        def __new__(meta, name, bases, attributes, *, limit):
            cls = super().__new__(meta, name, bases, attributes)
            cls.limit = limit + LIMIT
            return cls
        def __init__(cls, name, bases, attributes, *, limit):
            super().__init__(name, bases, attributes)
            CALLS.append(cls)
        def __setattr__(cls, name, value):
            if name == "fixed":
                raise AttributeError(name)
            super().__setattr__(name, value)
    class Model(metaclass=Meta, limit=2):
        fixed = 1
    class Field:
        def __set_name__(self, owner, name):
            CALLS.append(name)
            self.name = name
    class Row(Model, limit=4):
        column = Field()
"""


def test_hooks_of_by_value_classes_do_not_run_again(pair, script):
    main = script(
        HOOKS
        + """
    def plugin(): return Csv().run(), REGISTRY["Csv"] is Csv
    def model(): return Row.limit, Row.column.name, Row.fixed, len(CALLS), type(Row) is Meta
    def new(name):
        class New(Plugin, key=name):
            def run(self): return 1
        return Plugin.names, sorted(REGISTRY)
    """
    )
    assert pair.run(main.plugin) == (("csv", ["csv"], ["Csv"]), True)
    assert pair.run(main.model) == (7, "column", 1, 3, True)
    assert pair.run(main.new, "new") == (["csv", "new"], ["Csv", "New"]), "they work in the worker"


def test_a_subclass_that_comes_after_its_base(pair, script):
    main = script(HOOKS + "    def base(): return Plugin.names")
    assert pair.run(main.base) == ["csv"]
    script(
        """
        class Json(Plugin, key="json"):
            def run(self): return self.key, self.names, sorted(REGISTRY)
        def run(plugin):
            return plugin.run()
        """,
        main,
    )
    assert pair.run(main.run, main.Json()) == ("json", ["csv", "json"], ["Csv", "Json"])


def test_hooks_of_importable_bases_run(pair, script):
    main = script("""
        import abc, string
        class Path(string.Template):
            delimiter = "%"
        class Shape(abc.ABC):
            @abc.abstractmethod
            def area(self): ...
        def work():
            try:
                Shape()
            except TypeError:
                return Path.pattern.pattern
    """)
    assert pair.run(main.work) == main.Path.pattern.pattern


ENUMS = """
    import dataclasses, enum
    class Planet(enum.Enum):
        EARTH = (5.976e+24, 6.37814e6)
        TERRA = EARTH
        MARS = (6.421e+23, 3.3972e6)
        def __init__(self, mass, radius):
            self.mass = mass
            self.radius = radius
        @property
        def gravity(self):
            return G * self.mass / self.radius**2
    G = 6.673e-11
    class Coord(bytes, enum.Enum):
        PX = (0, "P.X")
        PY = (1, "P.Y")
        def __new__(cls, value, label):
            made = bytes.__new__(cls, [value])
            made._value_ = value
            made.label = label
            cls._value2member_map_[label] = made
            return made
    @dataclasses.dataclass
    class Size:
        legs: int
        tail: bool = True
    class Animal(Size, enum.Enum):
        DOG = 4
        BEETLE = 6, False
    class Flags(enum.Flag):
        R = 1
        W = 2
        RW = 3
        NONE = 0
    class Meta(enum.EnumMeta):
        def __contains__(cls, value):
            return value in cls._value2member_map_
    class Base(enum.Enum, metaclass=Meta):
        def __init__(self, *args):
            self.text = f"{args}{SUFFIX}"
        def __init_subclass__(cls):
            SEEN.append(cls)
    SUFFIX, SEEN = "!", []
    class Derived(Base):
        LIST = [1]
        PAIR = (1, 2)
"""


def test_members_of_enums_arrive_with_what_they_hold(pair, script):
    main = script(
        ENUMS
        + """
    def planet(p):
        return p.gravity, Planet.TERRA is Planet.EARTH, Planet["TERRA"], Planet(p.value) is p
    def coord(c):
        return bytes(c), c.label, c.value, Coord(c.value) is c, Coord(c.label) is c
    def animal():
        return Animal.DOG.legs, Animal.DOG.tail, Animal.BEETLE.tail, list(Animal)
    def flags():
        return list(Flags), list(Flags.__members__), Flags["RW"], Flags(3) is Flags.RW, ~Flags.R
    def derived():
        return (1, 2) in Derived, Derived.PAIR.text, Derived.LIST.text, Derived([1]), len(SEEN)
    """
    )
    earth = main.Planet.EARTH
    assert pair.run(main.planet, earth) == (earth.gravity, True, earth, True)
    assert pair.run(main.coord, main.Coord.PY) == (b"\1", "P.Y", 1, True, True)
    assert pair.run(main.animal) == (4, True, False, list(main.Animal))
    flags = main.Flags
    found = ([flags.R, flags.W], ["R", "W", "RW", "NONE"], flags.RW, True, flags.W)
    assert pair.run(main.flags) == found
    text = ("(1, 2)!", "([1],)!")
    assert pair.run(main.derived) == (True, *text, main.Derived.LIST, 1)


def test_an_attribute_of_a_member_changed_between_submits(pair, script):
    main = script(
        ENUMS
        + """
    EARTH = Planet.EARTH
    def named(): return EARTH.mass
    def member(): return Planet.EARTH.mass
    def given(planet): return planet.mass
    """
    )
    main.EARTH.mass = 1
    results = [pair.run(main.named), pair.run(main.member), pair.run(main.given, main.EARTH)]
    main.EARTH.mass = 2
    results += [pair.run(main.named), pair.run(main.member), pair.run(main.given, main.EARTH)]
    assert results == [1, 1, 1, 2, 2, 2]


def test_what_a_named_tuple_holds_changed_between_submits(pair, script):
    main = script("""
        import collections
        Settings = collections.namedtuple("Settings", "paths")
        SETTINGS = Settings([])
        def work():
            return SETTINGS.paths
    """)
    assert pair.run(main.work) == []
    main.SETTINGS.paths.append("a")
    assert pair.run(main.work) == ["a"]


def test_an_attribute_that_a_class_or_a_member_gains_between_submits(pair, script):
    main = script(
        ENUMS
        + """
    class Config: pass
    def work():
        return getattr(Config, "rate", None), getattr(Planet.EARTH, "moons", None)
    """
    )
    assert pair.run(main.work) == (None, None)
    main.Config.rate = 1
    assert pair.run(main.work) == (1, None)
    main.Planet.EARTH.moons = 1
    assert pair.run(main.work) == (1, 1)


def test_structures_of_ctypes(pair, script):
    main = script("""
        import ctypes
        class Pixel(ctypes.Structure):
            _pack_ = 1
            _fields_ = [("tag", ctypes.c_char), ("rgb", ctypes.c_int * 3)]
            def total(self): return sum(self.rgb)
        class Wide(Pixel):
            _fields_ = [("depth", ctypes.c_double)]
        class Either(ctypes.Union):
            _fields_ = [("pixel", Pixel), ("word", ctypes.c_uint)]
        class Header(ctypes.BigEndianStructure):
            _fields_ = [("size", ctypes.c_uint16), ("bits", ctypes.c_uint16, 3)]
        class Outer(ctypes.Structure):
            _anonymous_ = ("either",)
            _fields_ = [("either", Either)]
        class Node(ctypes.Structure): pass
        Node._fields_ = [("value", ctypes.c_int), ("next", ctypes.POINTER(Node))]
        Pixel.RED = Pixel(b"r", (255, 0, 0))
        def work(pixel):
            wide = Wide(b"w", (1, 2, 3), 0.5)
            return pixel.total(), Pixel.rgb.offset, wide.total(), wide.depth, Pixel.RED.total()
        def layouts():
            node = Node(1, ctypes.pointer(Node(2)))
            return bytes(Header(258, 5)), Outer(word=7).word, node.next.contents.value
        def made(): return Pixel(b"p", (1, 1, 1))
    """)
    assert pair.run(main.work, main.Pixel(b"x", (1, 2, 4))) == (7, 1, 6, 0.5, 255)
    assert pair.run(main.layouts) == (bytes(main.Header(258, 5)), 7, 2)
    assert pair.run(main.made).total() == 3
    assert not pair.encode(main.layouts).mutable
