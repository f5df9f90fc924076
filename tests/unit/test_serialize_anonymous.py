"""Functions whose globals are no module's: of an `exec`, of `runpy.run_path`."""

from __future__ import annotations

import functools
import gc
import runpy
import weakref

import pytest

from tests.support import serialization as support

SOURCE = """
import collections, dataclasses
data = list(range(100))
@dataclasses.dataclass
class Base:
    a: int
    def more(self): return helper(self.a)
class Derived(Base): pass
Pair = collections.namedtuple("Pair", "a b")
def helper(x): return x + 1
table = {"helper": helper, "class": Base}
steps = (helper, Base)
instance = Derived(4)
def plain(x): return x + 1
def named(x): return helper(x) + len(data)
def classes(x): return Base(x).more(), Derived(x).more(), Pair(x, x)
def held(x): return table["helper"](x), steps[1](x), instance.more()
def through(x): return circles[0](x) if x else None
circles = (through,)
def circle(x): return circle(x - 1) if x else 0
def takes(thing): return thing.more()
short = lambda x: helper(x)
"""


def namespace(source: str = SOURCE) -> dict:
    """Execute some source."""
    variables: dict = {"__name__": "cell"}
    exec(compile(source, "<cell>", "exec", dont_inherit=True), variables)
    return variables


def bound(variables):
    return variables["Derived"](1).more


def evaluated(variables):
    return eval("lambda: named(1)", variables)


def kept_partial(variables):
    variables["part"] = functools.partial(variables["named"], 1)
    return variables["part"]


WAYS = ["plain", "named", "classes", "held", "circle", "through", "short", "Base", "Derived"]


@pytest.fixture
def encoder():
    return support.Encoder(by_value_main=True)


@pytest.mark.parametrize("way", [*WAYS, bound, evaluated, kept_partial])
def test_globals_go_when_the_caller_drops_them(encoder, way):
    variables = namespace()
    kept = weakref.ref(variables["helper"])
    fn = variables[way] if isinstance(way, str) else way(variables)
    records = [encoder.encode_function(fn) for _ in range(2)]
    assert records[0].digest == records[1].digest
    del fn, variables
    gc.collect()
    assert kept() is None


def test_globals_go_though_arguments_needed_them(encoder):
    variables = namespace()
    kept = weakref.ref(variables["helper"])
    function = encoder.encode_function(variables["takes"])
    known = function.known
    for _ in range(4):
        anew = encoder.encode_arguments((variables["Base"](1),), function, known)[2]
        known = anew[2] if anew else known
    del variables
    gc.collect()
    assert kept() is None


def test_globals_of_a_script_go_when_it_has_run(encoder, tmp_path):
    path = tmp_path / "job.py"
    path.write_text(f"{SOURCE}\nrecord = encode(named)\n")
    variables = runpy.run_path(str(path), {"encode": encoder.encode_function})
    kept = weakref.ref(variables["helper"])
    record = variables["record"]
    del variables
    gc.collect()
    assert record.payload
    assert kept() is None


def test_what_is_kept_of_globals_goes_with_them(encoder):
    counts = []
    for _ in range(3):
        variables = namespace()
        encoder.encode_function(variables["named"])
        encoder.encode_function(variables["classes"])
        sender = encoder._sender
        counts.append([len(sender._names), len(sender._classes), len(sender._written)])
        del variables
        gc.collect()
    assert counts[0] == counts[1] == counts[2]


def test_globals_stay_the_same_as_long_as_one_function_lives(pair):
    variables = namespace("n = 1\ndef put(x):\n global n\n n = x\ndef get(): return n")
    pair.run(eval("lambda x: put(x)", variables), 5)
    pair.functions.clear()
    gc.collect()
    assert pair.run(eval("lambda: n", variables)) == 5
    exec("def put(x):\n global n\n n = 2 * x", variables)
    pair.functions.clear()
    gc.collect()
    assert [pair.run(variables["put"], 4), pair.run(variables["get"])] == [None, 8]
    variables["n"] = 3
    assert pair.run(variables["get"]) == 3


def test_globals_at_the_place_of_others_are_not_taken_for_them(pair):
    for number in range(20):
        variables = namespace(f"n = {number}\ndef get(): return n")
        assert pair.run(variables["get"]) == number
        pair.functions.clear()
        del variables


@pytest.mark.parametrize(
    "change",
    [
        "data = [1]", "data.append(1)", "helper = lambda x: 0", "helper.__defaults__ = (1,)",
        "del data", "helper.__code__ = (lambda x: 2 * x).__code__",
    ],
)  # fmt: skip
def test_a_change_in_globals_of_no_module_is_noticed(encoder, change):
    variables = namespace()
    function = encoder.encode_function(variables["named"])
    exec(change, variables)
    again = encoder.encode_function(variables["named"])
    assert again.digest != function.digest
    assert function.mutable or not function.unchanged()


def test_a_function_that_uses_atoms_and_other_functions_need_not_be_pickled_again(encoder):
    variables = namespace("""
import functools, math
n, pair = 1000, (1, 2)
def twice(fn):
    return lambda x: 2 * fn(x)
@twice
def helper(x): return math.sin(x) * n
def work(x): return work(helper(x)) if x else pair
""")
    function = encoder.encode_function(variables["work"])
    assert not function.mutable
    assert function.unchanged()
    kept = weakref.ref(variables["helper"])
    variables["n"] = 1001
    assert not function.unchanged()
    variables["n"] = 1000
    assert function.unchanged()
    variables["helper"].__closure__[0].cell_contents.__defaults__ = (1,)
    assert not function.unchanged()
    del variables
    gc.collect()
    assert kept() is None


def test_a_class_of_no_module_is_sent_again_when_it_has_changed(pair):
    variables = namespace()
    assert pair.run(variables["takes"], variables["Base"](1)) == 2
    variables["Base"].more = eval("lambda self: 10 * self.a", variables)
    assert pair.run(variables["takes"], variables["Derived"](1)) == 10
    assert type(pair.run(variables["Derived"], 1)) is variables["Derived"]


def test_a_deleted_name_of_no_module_is_gone_in_the_worker(pair):
    variables = namespace("def helper(): return 1\ndef work(): return helper()")
    assert pair.run(variables["work"]) == 1
    del variables["helper"]
    with pytest.raises(NameError, match="helper"):
        pair.run(variables["work"])


def test_a_result_finds_the_globals_that_its_function_came_from(pair):
    variables = namespace("def make(n): return lambda: (n, helper())\ndef helper(): return 1")
    made = pair.run(variables["make"], 2)
    assert made.__globals__ is variables
    assert made() == (2, 1)


def test_a_result_whose_globals_are_gone_says_so(pair):
    variables = namespace("def make(n): return lambda: n")
    function = pair.encode(variables["make"])
    number = pair.load(function, pair.worker)
    pair.functions.clear()
    del variables
    gc.collect()
    with pytest.raises(LookupError, match="the globals of 'cell' are gone"):
        pair.result(*pair.worker.ask(b"call" + number, support.pickle.dumps((1,))))
