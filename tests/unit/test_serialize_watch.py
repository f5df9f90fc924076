"""When a function is sent again, what travels out of band, and what refusals say."""

from __future__ import annotations

import functools
import pickle
import re
import socket
import sys
import threading

import pytest

from bireme._fingerprint import Watch
from bireme.serialize import Encoder, diagnose, refresh
from tests.support import serialization as support

PicklingError = support.errors.PicklingError


@pytest.fixture
def encoder():
    return Encoder(by_value_main=True)


# Fingerprints


BASE = """
    import math
    rate = 1000
    ratio = 2.5
    zero = 0.0
    word = "word" * 3
    pair = (1, "a")
    def helper(x): return x + deep
    deep = 5000
    def make(n):
        def inner(x=1, *, k=1): return x + n + k
        return inner
    inner = make(70000)
    class Config:
        level = 3
        def method(self): return other
    other = 9000
    def work(x):
        return math.pi * rate + helper(x), ratio, word, pair, inner, Config, zero
"""


def test_unchanged_until_something_is_replaced(encoder, script):
    main = script(BASE)
    function = encoder.encode_function(main.work)
    assert function.unchanged()
    assert not function.mutable
    assert not function.stable
    assert function.name == "__main__.work"
    same = encoder.encode_function(main.work)
    assert same.digest == function.digest
    assert same.payload == function.payload
    main.rate = int("1000")
    main.ratio = float("2.5")
    main.word = "".join(["word"] * 3)
    assert function.unchanged(), "equal atoms"


@pytest.mark.parametrize(
    "change",
    [
        "rate = 1001", "rate = 1000.0", "rate = True", "ratio = 2.6", "zero = -0.0", "word = 'x'",
        "pair = (1, 'b')", "deep = 1", "other = 1", "Config.level = 4", "import cmath as math",
        "helper = lambda x: x", "helper.__code__ = (lambda x: 2 * x).__code__",
        "helper.__defaults__ = (1,)", "inner.__closure__[0].cell_contents = 1",
        "inner.__kwdefaults__['k'] = 2", "inner = make(1)", "Config.method = lambda self: 1",
        "Config = type('Config', (), {})", "work.__defaults__ = (3,)",
    ],
)  # fmt: skip
def test_a_replaced_part_is_noticed_and_changes_the_digest(encoder, script, change):
    main = script(BASE)
    function = encoder.encode_function(main.work)
    work = main.work
    script(change, main)
    assert not function.unchanged()
    assert encoder.encode_function(work).digest != function.digest


@pytest.mark.parametrize("name", ["Point", "Slotted", "Shape", "Color", "Pair", "MyError"])
def test_a_class_is_unchanged_too(encoder, script, name):
    main = script(support.CLASSES)
    watch = Watch(getattr(main, name), encoder._rules, follow=False)
    assert watch.unchanged()
    assert not watch.mutable


def test_a_name_defined_later_is_noticed(encoder, script):
    main = script("def work(): return later")
    function = encoder.encode_function(main.work)
    assert function.unchanged()
    main.later = 1
    assert not function.unchanged()


def test_names_that_are_not_used_do_not_matter(encoder, script):
    main = script("used = 1\nunused = 1\ndef work(thing): return used + thing.unused")
    function = encoder.encode_function(main.work)
    main.unused = 2
    assert function.unchanged()


@pytest.mark.parametrize(
    ("value", "mutable"),
    [
        ("{}", True), ("[]", True), ("set()", True), ("object()", True), ("bytearray(3)", True),
        ("([],)", True), ("functools.partial(max, [])", True), ("[].append", True),
        ("1", False), ("b'x'", False), ("frozenset({1})", False), ("(1, (2, None))", False),
        ("functools.partial(max, 1)", False), ("len", False), ("functools", False), ("int", False),
        ("os.path.join", False), ("re.compile('x')", False), ("pathlib.Path('x')", False),
        ("logging.getLogger('x')", False), ("datetime.date(2020, 1, 1)", False),
        ("lambda: 1", False), ("bytes(100_000)", False), ("bytearray(100_000)", False),
        ("list[int]", False), ("typing.Optional[int]", False), ("str.upper", False),
        ("enum.Enum('E', 'A').A", False), ("enum.Enum('E', {'A': []}).A", True),
        ("type('S', (str,), {})('x')", True), ("type('S', (tuple,), {})()", True),
        ("type('S', (str,), {'__slots__': ()})('x')", False), ("os.stat('.')", False),
        ("collections.namedtuple('P', 'a b')(1, [])", True),
        ("collections.namedtuple('P', 'a b')(1, 2)", False), ("typing.Literal['a']", False),
    ],
)  # fmt: skip
def test_which_values_can_change_in_place(encoder, script, value, mutable):
    modules = "collections, datetime, enum, functools, logging, os, pathlib, re, typing"
    main = script(f"import {modules}\nvalue = {value}\ndef work(): return value")
    assert encoder.encode_function(main.work).mutable is mutable
    main = script(
        f"import {modules}\ndef outer(v):\n def work(): return v\n return work\n"
        f"work = outer({value})"
    )
    assert encoder.encode_function(main.work).mutable is mutable


@pytest.mark.parametrize(
    ("definition", "expression", "changes"),
    [
        ("class C: pass", "getattr(C, 'n', 0)", ["C.n = 1", "C.n = True", "C.n = 2", "del C.n", "C.n = 2"]),
        ("class B: pass\nclass C(B): pass", "getattr(C, 'n', 0)", [
            "B.n = 1", "C.n = 2", "B.n = 2", "B.n = 3", "del C.n", "del B.n",
        ]),
        ("class M(type): pass\nclass C(metaclass=M): pass", "getattr(C, 'n', 0)", ["M.n = 1", "del M.n"]),
        ("class A:\n def m(self): return 1\nclass B:\n def m(self): return 2\nclass C(A): pass", "C().m()", [
            "C.__bases__ = (B,)", "C.__bases__ = (A,)",
        ]),
        ("class C:\n _n_ = [1]\n x: int", "C._n_, C.__annotations__, C.__doc__, hasattr(C, '__len__')", [
            "C._n_.append(2)", "C.__annotations__['y'] = str", "C.__doc__ = 'text'",
            "C.__len__ = lambda self: 1", "del C.__len__",
        ]),
        ("import abc\nclass A(abc.ABC): pass\nclass C: pass", "isinstance(C(), A)", ["A.register(C)"]),
        ("import enum\nclass E(enum.Enum):\n A = [1]\n B = 2", "E.A.value, getattr(E.B, 'n', 0), E(2)", [
            "E.A.value.append(2)", "E.B.n = 1", "E.B.n = 2", "del E.B.n",
        ]),
        ("import enum\nclass E(enum.Enum):\n A = 1\n def m(self): return 1\nmember = E.A", "member.m()", [
            "E.m = lambda self: 2",
        ]),
        ("import enum\nclass E(enum.Enum):\n A = 1\nclass C: n = 1", "repr(C.n)", ["C.n = E.A"]),
        ("def f(): 'text'", "getattr(f, 'n', 0), f.__doc__, f.__name__, f.__annotations__", [
            "f.n = 1", "f.n = True", "del f.n", "f.__dict__ = {'n': 2}", "f.__doc__ = 'other'",
            "f.__doc__ = None", "f.__name__ = 'g'", "f.__annotations__ = {'x': int}",
            "f.__annotations__['x'] = float",
        ]),
        ("def make(v):\n def f(): return v\n return f\nf = make(1)", "f(), getattr(f, 'n', 0)", [
            "f.n = 1", "f.n = True", "f.__closure__[0].cell_contents = True",
        ]),
        ("def f(a=1, *, k=2): return a, k", "f()", [
            "f.__kwdefaults__ = {'k': 3}", "f.__kwdefaults__['k'] = 4", "f.__defaults__ = (True,)",
            "f.__kwdefaults__ = {'k': [1]}", "f.__kwdefaults__['k'].append(2)",
        ]),
        ("class C: pass\ndef f(c: C): return getattr(c, 'n', 0)", "f(C())", ["C.n = 1"]),
        *(
            (f"class S({kind}): pass\ns = S({value})", "getattr(s, 'n', 0)", ["s.n = 1", "s.n = 2", "del s.n"])
            for kind, value in [("str", "'x'"), ("bytes", "b'x'"), ("tuple", "'xy'"), ("frozenset", "'xy'")]
        ),
        ("class S(str):\n __slots__ = ()\n def m(self): return 1\ns = S('x')", "s.m()", ["S.m = lambda self: 2"]),
        ("class S(str):\n __slots__ = ('n',)\ns = S('x')", "getattr(s, 'n', 0)", ["s.n = 1"]),
        ("import collections\nState = collections.namedtuple('State', 'weights')\nstate = State([1])", "state", [
            "state.weights.append(2)",
        ]),
        ("import functools\np = functools.partial(dict, a=1)", "p(), getattr(p, 'n', 0)", [
            "p.keywords['b'] = 2", "del p.keywords['b']", "p.n = 1", "p.n = 2",
        ]),
        ("import functools\n@functools.lru_cache\ndef f(): return 1", "f(), getattr(f, 'n', 0)", ["f.n = 1"]),
        ("import functools\ndef inner(): return 1\ndef decorate(f):\n @functools.wraps(f)\n def outer():\n"
         "  return f(), getattr(f, 'n', 0)\n return outer\nf = decorate(inner)\ng = decorate(f)\ninner.f = f",
         "inner(), f(), g(), f.__wrapped__(), getattr(inner, 'n', 0)", [
            "inner.n = 1", "inner.n = 2", "inner.__code__ = (lambda: 2).__code__", "f.n = 3",
        ]),
        ("import types\nm = types.ModuleType('m')\nm.n = 1", "getattr(m, 'n', 0), getattr(m, 'k', 0)", [
            "m.n = 2", "m.k = 3", "del m.n", "m.n = 2", "del m.k",
        ]),
        ("class C: pass\nalias = list[C]", "getattr(alias.__args__[0], 'n', 0)", ["C.n = 1"]),
    ],
)  # fmt: skip
def test_a_change_in_place_is_seen(pair, script, definition, expression, changes):
    main = script(f"{definition}\ndef work(): return repr(({expression}))")
    for change in ("", *changes):
        script(change, main)
        assert pair.run(main.work) == main.work(), change
        sends = pair.sends
        pair.run(main.work)
        assert pair.sends == sends, "nothing changed since"


def test_a_large_array_of_a_class_with_attributes(pair, script):
    pytest.importorskip("numpy")
    main = script("""
        import numpy as np
        class Tagged(np.ndarray):
            def __reduce__(self): return (rebuild, (np.asarray(self), type(self), self.__dict__))
        def rebuild(values, kind, attributes):
            tagged = values.view(kind)
            tagged.__dict__.update(attributes)
            return tagged
        data = np.zeros(20_000).view(Tagged)
        data.tag = "a"
        def work(): return data.tag
    """)
    assert pair.run(main.work) == "a"
    main.data.tag = "b"
    assert pair.run(main.work) == "b"


def test_the_digest_of_a_mutable_function_follows_the_content(encoder, script):
    main = script("table = {'a': [1]}\nseen = set()\ndef work(): return table, seen")
    digests = [encoder.encode_function(main.work).digest for _ in range(2)]
    assert digests[0] == digests[1]
    main.table["a"].append(2)
    digests.append(encoder.encode_function(main.work).digest)
    main.seen.add(1)
    digests.append(encoder.encode_function(main.work).digest)
    assert len(set(digests)) == 3


def test_the_digest_follows_arguments_of_partials_and_instances(encoder, script):
    main = script("""
        class Model:
            def __init__(self): self.weights = [1]
            def predict(self, x): return x
    """)
    model = main.Model()
    first = encoder.encode_function(model.predict)
    assert first.mutable
    model.weights[0] = 2
    assert encoder.encode_function(model.predict).digest != first.digest


def test_a_pool_sends_only_what_changed(pair, script):
    main = script("step = 1\nrows = []\ndef add(x): return x + step\ndef use(): return len(rows)")
    for _ in range(3):
        pair.run(main.add, 1)
    assert (pair.encodes, pair.sends) == (1, 1)
    for _ in range(3):
        pair.run(main.use)
    assert (pair.encodes, pair.sends) == (4, 2)
    main.rows.append(1)
    assert pair.run(main.use) == 1
    assert pair.sends == 3


# Buffers


def test_large_arrays_travel_out_of_band(pair, script):
    numpy = pytest.importorskip("numpy")
    main = script("""
        import functools
        import numpy as np
        big = np.arange(20_000)
        small = np.arange(10)
        strided = np.arange(40_000)[::2]
        text = b"x" * 100_000
        def work():
            return int(big.sum()), int(small.sum()), int(strided.sum()), len(text), type(text)
        def outer(v):
            return lambda: int(v.sum())
        captured = outer(big)
        def add(v, x): return int(v.sum()) + x
        partial = functools.partial(add, big)
    """)
    total = int(main.big.sum())
    function = pair.encode(main.work)
    sizes = sorted(buffer.raw().nbytes for buffer in function.buffers)
    assert sizes == [100_000, main.big.nbytes]
    assert len(function.payload) - main.strided.nbytes < 5_000
    assert pair.run(main.work) == (total, 45, int(main.strided.sum()), 100_000, bytes)
    assert pair.run(main.captured) == total
    assert pair.run(main.partial, 1) == total + 1
    for fn in (main.captured, main.partial):
        assert [b.raw().nbytes for b in pair.encode(fn).buffers] == [main.big.nbytes]
    payload, buffers = pair.encoder.dumps([main.outer(numpy.zeros(10_000)), main.small])
    assert [b.raw().nbytes for b in buffers] == [80_000]
    assert pickle.loads(payload, buffers=buffers)[0]() == 0


def test_large_arrays_count_as_unchanged_until_refresh(pair, script):
    pytest.importorskip("numpy")
    main = script("""
        import numpy as np
        big = np.zeros(20_000)
        other = np.zeros(20_000)
        def work(): return big[0]
        def second(): return other[0]
        def outer(v):
            return lambda: v[0]
        captured = outer(big)
    """)
    for fn in (main.work, main.captured, main.second):
        assert pair.run(fn) == 0
    main.big[0] = 5
    main.other[0] = 5
    assert not pair.encode(main.work).mutable
    for fn in (main.work, main.captured, main.second):
        assert pair.run(fn) == 0
    refresh(main.work)
    assert pair.run(main.work) == 5
    assert pair.run(main.captured) == 5
    assert pair.run(main.second) == 0
    main.big = main.big + 1
    assert pair.run(main.work) == 6


def test_shared_arrays_stay_shared(pair, script):
    pytest.importorskip("numpy")
    main = script("""
        import numpy as np
        big = np.zeros(20_000)
        views = {"big": big}
        def work():
            views["big"][0] += 1
            return float(big[0])
    """)
    assert [pair.run(main.work) for _ in range(2)] == [1, 2]
    assert main.big[0] == 0


# Refusals


class Holder:
    __slots__ = ("__dict__", "slot")

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ((Holder(model=Holder(_lock=LOCK)),), "args[0].model._lock"),
        ((1, {"a": [LOCK]}), "args[1]['a'][0]"),
        ((functools.partial(max, LOCK),), "args[0].args[0]"),
        ((functools.partial(max, key=LOCK),), "args[0].keywords['key']"),
        ((Holder(a=1).__init__,), None),
        ((Holder(g=(i for i in "ab")).__init__,), "args[0].__self__.g"),
        (({1: Holder(fh=sys.__stderr__.buffer)},), "args[0][1].fh"),
        ((Holder(s=socket.socket),), None),
    ],
)
def test_a_refusal_names_the_path(encoder, value, path):
    if path is None:
        payload, buffers = encoder.dumps(value)
        assert pickle.loads(payload, buffers=buffers)
        return
    with pytest.raises(PicklingError) as raised:
        encoder.dumps(value)
    assert re.search(rf": {re.escape(path)} is a [\w.]+ object: ", str(raised.value))
    assert re.search(r"the rest of args is [\d,]+ bytes", str(raised.value))
    assert isinstance(raised.value.__cause__, TypeError)


def test_a_refusal_names_slots_items_and_labels(encoder):
    holder = Holder()
    holder.slot = LOCK
    with pytest.raises(PicklingError, match=r"args\[0\]\.slot is a _thread\.lock"):
        encoder.dumps((holder,))
    with pytest.raises(PicklingError, match=r"kwargs\['key'\] is a _thread\.lock"):
        encoder.dumps(((1,), {"key": LOCK}), label=("args", "kwargs"))
    with socket.socket() as open_socket, pytest.raises(PicklingError, match=r"socket\.socket"):
        encoder.dumps([open_socket])


def test_a_refusal_tells_how_large_the_rest_is(encoder):
    with pytest.raises(PicklingError) as raised:
        encoder.dumps((bytes(50_000), LOCK, bytearray(70_000)))
    (size,) = re.findall(r"is ([\d,]+) bytes", str(raised.value))
    assert 120_000 < int(size.replace(",", "")) < 121_000


def test_a_refusal_of_a_function_names_the_variable(encoder, script):
    main = script("""
        import threading, os
        conn = threading.Lock()
        def helper(): return conn
        def work(): return helper()
        def direct(): return conn
        fh = open(os.devnull)
        escaped = (lambda fh: lambda: fh)(fh)
        def default(a, b=conn): return b
        class Model:
            shared = conn
            def run(self): return 1
        def cls(): return Model
    """)
    for fn, text in [
        (main.direct, "function 'direct' → global 'conn' is a _thread.lock"),
        (main.work, "function 'work' → global 'helper' → global 'conn' is a _thread.lock"),
        (main.escaped, "closure variable 'fh' of <lambda> is a _io.TextIOWrapper"),
        (main.default, "default of argument 'b' of function 'default' is a _thread.lock"),
        (main.cls, "function 'cls' → global 'Model'.shared is a _thread.lock"),
        (main.Model().run, "function 'Model.run'"),
    ]:
        with pytest.raises(PicklingError) as raised:
            encoder.encode_function(fn)
        assert text in str(raised.value)
    main.fh.close()


def test_a_failed_encoding_leaves_the_encoder_usable(pair, script):
    main = script("""
        import threading
        a = 1
        conn = threading.Lock()
        def bad(): return a, conn
        def good(): return a
    """)
    with pytest.raises(PicklingError):
        pair.run(main.bad)
    assert pair.run(main.good) == 1
    main.conn = 2
    assert pair.run(main.bad) == (1, 2)


class Refuses:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


class RefusesState:
    def __getstate__(self):
        return {}["missing"]


def test_the_users_own_exception_comes_through(encoder):
    with pytest.raises(RuntimeError, match="cannot pickle") as raised:
        encoder.dumps((1, Refuses(RuntimeError("cannot pickle"))))
    assert raised.value.__notes__ == ["raised while args[1] was pickled"]
    assert raised.value.__cause__ is None
    with pytest.raises(KeyError) as raised:
        encoder.dumps(({"k": RefusesState()},))
    assert raised.value.__notes__ == ["raised while args[0]['k'] was pickled"]
    with pytest.raises(ZeroDivisionError):
        encoder.encode_function(functools.partial(max, Refuses(ZeroDivisionError())))
    for error in (TypeError("cannot pickle 'Refuses' object"), pickle.PicklingError("no")):
        with pytest.raises(PicklingError, match=r"args\[0\] is a .*Refuses object"):
            encoder.dumps((Refuses(error),))


def test_too_deep_and_cyclic_objects(encoder):
    cycle: list = []
    cycle.append(cycle)
    payload, _ = encoder.dumps(cycle)
    back = pickle.loads(payload)
    assert back[0] is back
    cycle.append(LOCK)
    with pytest.raises(PicklingError, match=r"args\[1\] is a _thread.lock"):
        encoder.dumps(cycle)
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(PicklingError, match="recursion"):
        encoder.dumps(deep)
    while deep:
        deep = deep[0]


def test_functions_made_by_numpy_are_refused(encoder, script):
    pytest.importorskip("numpy")
    main = script("""
        import numpy as np
        double = np.frompyfunc(lambda x: 2 * x, 1, 1)
        def work(x): return double(np.add(x, 1))
    """)
    with pytest.raises(PicklingError, match=r"function 'work' → global 'double' is a numpy\.ufunc"):
        encoder.encode_function(main.work)
    with pytest.raises(PicklingError, match=r"args\[0\] is a numpy\.ufunc object: cannot pickle"):
        encoder.dumps([main.double])
    assert b"add" in encoder.dumps([main.np.add, lambda: 0])[0]


def test_a_refusal_that_does_not_come_again(encoder):
    class Once:
        def __reduce__(self):
            if not refused:
                refused.append(self)
                raise TypeError("cannot pickle it this time")
            return (int, ())

    refused: list = []
    with pytest.raises(PicklingError, match=r"^cannot pickle: args: cannot pickle it this time$"):
        encoder.dumps([Once()])


def test_diagnose_by_hand():
    assert diagnose([1, LOCK], "data").startswith("data[1] is a _thread.lock object: cannot pickle")
    assert re.fullmatch(r"data can be pickled \(\d+ bytes\)", diagnose([1], "data"))


def test_results_are_refused_in_the_worker_with_a_path(pair):
    with pytest.raises(RuntimeError, match=r"PicklingError.*result\[0\] is a _thread\.lock"):
        pair.run(lambda: [threading.Lock()])


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("class Model: manager = weakref.ref(set())", "weakref"),
        # As that of `msgspec.Struct`.
        ("class Kind(type): pass\nKind.__module__ = 'msgspec._core'\nclass Model(metaclass=Kind): pass",
         "only a class statement"),
    ],
)  # fmt: skip
def test_a_class_that_cannot_travel_is_refused_with_a_way_out(encoder, script, source, why):
    main = script(f"import weakref\n{source}\ndef make(): return Model()")
    with pytest.raises(support.errors.PicklingError, match=f"global 'Model'.*{why}") as raised:
        encoder.encode_function(main.make)
    (note,) = raised.value.__notes__
    assert "'Model' into a module" in note
    assert "start_method='fork'" in note


def test_the_users_own_exception_in_a_class_comes_through(encoder, script):
    main = script("""
        class Refuses:
            def __reduce__(self): raise RuntimeError("not this one")
        class Model: part = Refuses()
        def make(): return Model()
    """)
    with pytest.raises(RuntimeError, match="not this one"):
        encoder.encode_function(main.make)
