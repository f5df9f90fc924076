"""What by-value functions find in their module's namespace, between two real processes."""

from __future__ import annotations

import pickle
import sys
import types

import pytest

from tests.support import serialization as support


def test_an_initializer_sets_a_global_that_tasks_read(pair, script):
    main = script("""
        model = None
        def init(value):
            global model
            model = value
        def work(x):
            return model * x
    """)
    pair.run(main.init, 7)
    assert pair.run(main.work, 6) == 42
    assert main.model is None


def test_a_name_set_by_a_task_stays_until_the_caller_changes_it(pair, script):
    main = script("""
        limit = 1
        other = 1
        def init(value):
            global limit
            limit = value
        def work():
            return limit
        def later():
            return limit, other
    """)
    pair.run(main.init, 50)
    assert pair.run(main.work) == 50
    main.other = 2
    assert pair.run(main.later) == (50, 2)
    main.limit = 9
    assert pair.run(main.work) == 9
    assert pair.run(main.later) == (9, 2)


def test_a_name_set_behind_the_compilers_back_stays_too(pair, script):
    main = script("""
        model = None
        def init():
            globals()["model"] = "built"
        def work():
            return model
    """)
    pair.run(main.init)
    assert pair.run(main.work) == "built"


def test_an_older_payload_does_not_set_a_name_back(pair, script):
    main = script("""
        rate = 1
        def work():
            return rate
        def first():
            return rate
    """)
    old = pair.encode(main.first)
    main.rate = 2
    assert pair.run(main.work) == 2
    worker = pair.worker
    worker.ask(b"load" + old.digest, old.payload)
    assert worker.eval("rate") == "2"


def test_an_older_payload_still_runs_the_older_function(pair, script):
    main = script("def work(): return 'old'")
    old = pair.encode(main.work)
    script("def work(): return 'new'", main)
    assert pair.run(main.work) == "new"
    status, _ = pair.worker.ask(b"load" + old.digest, old.payload)
    assert status == b"ok"
    status, answer = pair.worker.ask(b"call" + old.digest, pickle.dumps(()))
    assert pair.result(status, answer) == "old"
    assert pair.run(main.work) == "new"


def test_a_worker_born_later_gets_the_present_values(pair, script):
    main = script("""
        rate = 1
        def work():
            return rate
    """)
    assert pair.run(main.work) == 1
    main.rate = 2
    assert pair.run(main.work) == 2
    assert pair.run(main.work, worker=pair.start_worker()) == 2


def test_module_level_containers_changed_between_submits(pair, script):
    main = script("""
        table = {"a": 1}
        rows = [1, 2]
        def work():
            return table, rows
    """)
    assert pair.run(main.work) == ({"a": 1}, [1, 2])
    main.table["b"] = 2
    main.rows.append(3)
    assert pair.run(main.work) == ({"a": 1, "b": 2}, [1, 2, 3])


def test_a_container_changed_by_tasks_is_not_reset_by_another_change(pair, script):
    main = script("""
        cache = {}
        options = [1]
        def work(key):
            cache[key] = options[-1]
            return dict(cache)
    """)
    assert pair.run(main.work, "a") == {"a": 1}
    main.options.append(2)
    assert pair.run(main.work, "b") == {"a": 1, "b": 2}
    assert main.cache == {}


def test_names_that_share_an_object_share_it_in_the_worker(pair, script):
    main = script("""
        rows = []
        class Log:
            def __init__(self, target):
                self.target = target
        log = Log(rows)
        def work(x):
            log.target.append(x)
            return rows
    """)
    assert pair.run(main.work, 1) == [1]
    assert pair.run(main.work, 2) == [1, 2]
    main.rows.append("caller")
    assert pair.run(main.work, 3) == ["caller", 3]
    main.log.label = "changed"
    assert pair.run(main.work, 4) == ["caller", 3, 4], "the list has not changed in the caller"


SHARING = """
    class App:
        def __init__(self, cfg): self.cfg, self.conn = cfg, None
        def __getattr__(self, name): raise AttributeError(name)
    cfg = {"n": 1}
    app = App(cfg)
    def init(): app.conn = "open"
    def alone(): return app.conn
    def both(): return app.conn, cfg["n"], app.cfg is cfg
"""


def test_a_name_that_was_sent_stays_when_another_one_shares_its_objects(pair, script):
    main = script(SHARING)
    pair.run(main.init)
    assert pair.run(main.both) == ("open", 1, True)
    assert pair.run(main.alone) == "open"
    assert pair.run(main.both, worker=pair.start_worker()) == (None, 1, True)
    main.cfg["n"] = 2
    assert pair.run(main.both) == (None, 2, True), "now both have changed"


@pytest.mark.parametrize("first", ["alone", "config"])
def test_a_changed_name_shares_the_objects_of_those_that_stay(pair, script, first):
    main = script(SHARING + "    def config(): cfg['worker'] = True\n")
    pair.run(getattr(main, first))
    pair.run(main.config)
    pair.run(main.both)
    main.app.label = "new"
    assert pair.run(main.both) == (None, 1, True)
    assert "'worker': True" in pair.worker.eval("app.cfg")
    assert pair.run(main.both, worker=pair.start_worker()) == (None, 1, True)


def test_objects_that_tasks_have_dropped_are_made_once_more(pair, script):
    main = script("""
        class Node: pass
        node = Node()
        node.first, node.rows, other, rows = node, [1], [node], node
        def drop():
            global node
            node = "gone"
        def work(): return node, other[0] is rows.first, rows.rows
        rows = node
    """)
    pair.run(main.drop)
    assert pair.run(main.work) == ("gone", True, [1])
    assert pair.run(main.work) == ("gone", True, [1])


def test_a_captured_variable_is_shared_with_a_function_that_comes_later(pair, script):
    main = script("""
        def make():
            count = 0
            def add():
                nonlocal count
                count += 1
                return count
            def read(): return count
            return add, read
        plus, look = make()
        def step(): return plus()
        def both(): return plus(), look()
    """)
    assert [pair.run(main.step), pair.run(main.step)] == [1, 2]
    assert pair.run(main.both) == (3, 3)
    assert pair.run(main.both, worker=pair.start_worker()) == (1, 1)


def test_functions_that_share_a_captured_variable_share_it_in_the_worker(pair, script):
    main = script("""
        def make():
            count = 0
            def increase():
                nonlocal count
                count += 1
            def value():
                return count
            return increase, value
        increase, value = make()
        def work():
            increase()
            return value()
    """)
    assert [pair.run(main.work) for _ in range(3)] == [1, 2, 3]
    assert main.value() == 0


def test_helpers_recursion_and_mutual_recursion(pair, script):
    main = script("""
        def factorial(n):
            return 1 if n < 2 else n * factorial(n - 1)
        def even(n):
            return n == 0 or odd(n - 1)
        def odd(n):
            return n != 0 and even(n - 1)
        def work(n):
            return factorial(n), even(n), odd(n)
    """)
    assert pair.run(main.work, 5) == (120, False, True)
    assert pair.run(main.even, 4) is True


def test_long_chains_of_functions_and_classes(pair, script):
    count = 1500
    main = script(
        "".join(f"def f{i}(x): return f{i + 1}(x) if x == 'last' else {i}\n" for i in range(count))
        + f"def f{count}(x): return {count}\n"
        + "".join(
            f"class C{i}:\n def m(self, n): return C{(i + 1) % count}().m(n - 1) if n else {i}\n"
            for i in range(count)
        )
        + "def ring(n): return C0().m(n)\n"
    )
    assert (pair.run(main.f0, 1), pair.run(main.f1499, "last")) == (0, count)
    assert pair.run(main.ring, 5) == 5


def test_a_helper_is_one_object_for_all_functions(pair, script):
    main = script("""
        def helper():
            return 1
        helper.calls = 0
        def first():
            helper.calls += 1
            return helper.calls
        def second(given):
            import __main__
            return given is helper is __main__.helper, helper.calls
    """)
    assert pair.run(main.first) == 1
    assert pair.run(main.second, main.helper) == (True, 1)


def test_a_helper_redefined_or_patched_between_submits(pair, script):
    main = script("""
        def helper():
            return 1
        def work():
            return helper()
    """)
    assert pair.run(main.work) == 1
    script("def helper(): return 2", main)
    assert pair.run(main.work) == 2
    main.helper.__code__ = (lambda: 3).__code__
    assert pair.run(main.work) == 3


@pytest.mark.parametrize(
    ("line", "expression", "value"),
    [
        ("import math", "math.sqrt(9)", 3),
        ("from math import sqrt", "sqrt(9)", 3),
        ("import os.path as p", "p.join('a', 'b')", "a/b"),
        ("import xml.dom.minidom", "xml.dom.minidom.Document.nodeName", "#document"),
        ("import logging; log = logging.getLogger('x')", "log.name", "x"),
    ],
)
def test_imports_of_the_script(pair, script, line, expression, value):
    main = script(f"{line}\ndef work(): return {expression}")
    assert pair.run(main.work) == value


def test_numpy_in_the_script(pair, script):
    pytest.importorskip("numpy")
    main = script("""
        import numpy as np
        from numpy import sqrt
        def work(n):
            return float(np.ones(n).sum() + sqrt(4.0))
    """)
    assert pair.run(main.work, 3) == 5


def test_names_that_are_missing_for_the_interpreter_do_not_matter(pair, script):
    main = script("""
        from __future__ import annotations
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from nowhere import Thing
        def work(x: Thing, y: "Other" = 2) -> list[Thing]:
            if x < 0:
                missing()
            return [x, y]
    """)
    assert pair.run(main.work, 1) == [1, 2]
    assert pair.run(lambda: support and 1) == 1


def test_a_global_that_cannot_be_pickled_matters_only_if_used(pair, script):
    main = script("""
        import threading
        lock = threading.Lock()
        def work(thing):
            return thing.lock
        def bad():
            return lock
    """)
    assert pair.run(main.work, types.SimpleNamespace(lock=1)) == 1
    with pytest.raises(
        pickle.PicklingError, match=r"function 'bad' → global 'lock'.*_thread.lock"
    ) as caught:
        pair.run(main.bad)
    assert "initializer" in caught.value.__notes__[0]


def test_names_used_in_nested_code_and_class_bodies(pair, script):
    main = script("""
        base = 10
        def helper():
            return base
        def work():
            class Inner:
                value = helper()
                values = [base + i for i in range(2)]
            return Inner.value, (lambda: base)()
    """)
    assert pair.run(main.work) == (10, 10)


def test_a_module_made_by_hand_goes_by_value(pair, monkeypatch):
    module = types.ModuleType("made_by_hand")
    monkeypatch.setitem(sys.modules, "made_by_hand", module)
    exec(
        "total = 0\ndef add(x):\n global total\n total += x\n return total\n"
        "def read(): return total\nclass Thing: pass\ndef make(): return Thing()",
        module.__dict__,
    )
    assert pair.encoder.needs_by_value(module.add)
    assert [pair.run(module.add, 2), pair.run(module.add, 3), pair.run(module.read)] == [2, 5, 5]
    assert type(pair.run(module.make)) is module.Thing
    assert pair.worker.eval("__import__('made_by_hand').total") == "5"

    def through_the_module():
        return module.read()

    assert pair.run(through_the_module) == 5


def test_a_registered_module_goes_by_value(pair, tmp_path, monkeypatch):
    cloudpickle = pytest.importorskip("cloudpickle")
    (tmp_path / "local_library.py").write_text("factor = 2\ndef scale(x): return x * factor\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    library = __import__("local_library")
    assert not pair.encoder.needs_by_value(library.scale)
    cloudpickle.register_pickle_by_value(library)
    try:
        library.factor = 5
        assert pair.encoder.needs_by_value(library.scale)
        assert pair.run(library.scale, 2) == 10
    finally:
        cloudpickle.unregister_pickle_by_value(library)
        del sys.modules["local_library"]


def test_functions_of_an_exec_share_their_globals(pair):
    variables: dict = {"__name__": "console"}
    exec("n = 1\ndef put(x):\n global n\n n = x\ndef get(): return n", variables)
    assert pair.run(variables["get"]) == 1
    pair.run(variables["put"], 5)
    assert pair.run(variables["get"]) == 5
    bare: dict = {}
    exec("def f(x): return g(x)\ndef g(x): return x + 1", bare)
    assert pair.run(bare["f"], 1) == 2
