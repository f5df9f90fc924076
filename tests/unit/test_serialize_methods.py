"""By-value classes: their attributes and methods, and who refers to these."""

from __future__ import annotations

import pytest

# Attributes that a base has, too


def test_an_attribute_set_to_what_the_base_has(pair, script):
    main = script("""
        class Base:
            rate = 0.1
            def step(self): return "base"
            @property
            def kind(self): return "base"
        class Fine(Base):
            rate = 0.01
            def step(self): return "fine"
            @property
            def kind(self): return "fine"
        def work(): return Base.rate, Fine.rate, Fine().step(), Fine().kind
        def is_same():
            return Fine.step is Base.step and vars(Fine)["kind"] is vars(Base)["kind"]
    """)
    assert pair.run(main.work) == (0.1, 0.01, "fine", "fine")
    for cls in (main.Base, main.Fine):
        cls.rate = 0.5
    main.Fine.step, main.Fine.kind = main.Base.step, main.Base.kind
    assert pair.run(main.work) == (0.5, 0.5, "base", "base")
    assert pair.run(main.is_same)
    main.Base.rate = 0.7
    assert pair.run(main.work) == (0.7, 0.5, "base", "base")
    del main.Fine.rate
    assert pair.run(main.work) == (0.7, 0.7, "base", "base")


def test_a_class_repeats_what_its_base_has(pair, script):
    main = script("""
        class Base:
            debug, items = False, []
            def step(self): return "base"
        class Runner(Base):
            debug = False
        class Verbose:
            debug = True
            def step(self): return "verbose"
        class Job(Runner, Verbose):
            debug, items, step = True, Base.items, Verbose.step
        def make():
            class Local:
                def step(self): return "local"
            class Again(Local):
                step = Local.step
            return Local, Again
        def work(): return Job.debug, Job().step(), "debug" in vars(Runner), Job.items is Base.items
        def own(local, again): return vars(again)["step"] is vars(local)["step"], again().step()
    """)
    assert pair.run(main.work) == (True, "verbose", True, True)
    assert pair.run(main.own, *main.make()) == (True, "local")


def test_a_class_repeats_what_an_importable_base_has(pair, script, tmp_path, monkeypatch):
    (tmp_path / "with_lock.py").write_text(
        "import threading\n"
        "class Base:\n"
        "    lock, items, level = threading.Lock(), [], 1\n"
        "    @classmethod\n"
        "    def kind(cls): return cls.__name__\n"
        "class Other:\n"
        "    level = 2\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    main = script("""
        from with_lock import Base, Other
        class Derived(Other, Base):
            lock, items, level, kind = Base.lock, Base.items, Base.level, vars(Base)["kind"]
        def work():
            shared = Derived.lock is Base.lock and Derived.items is Base.items
            return shared, Derived.level, Derived.kind(), "kind" in vars(Derived)
    """)
    assert pair.run(main.work) == (True, 1, "Derived", True)


def test_what_a_class_is_born_with_is_left_out(pair, script):
    main = script("""
        import abc
        class Slotted:
            __slots__ = ("a", "__private", "replaced")
        Slotted.alias, Slotted.replaced = Slotted.a, 5
        class Shape(abc.ABC):
            @abc.abstractmethod
            def area(self): ...
        class Square: pass
        Shape.register(Square)
        def work():
            made = Slotted()
            made.a, made._Slotted__private = 1, 2
            return made.alias, made._Slotted__private, made.replaced, isinstance(Square(), Shape)
    """)
    assert pair.run(main.work) == (1, 2, 5, True)


# References to methods

REFERENCES = """
    class Base:
        def check(self): return "base"
        def other(self, value=2): return value
        rules = {"check": [check, other]}
    class Model(Base):
        rules = {**Base.rules}
    class Job(Base):
        def check(self, answer="job"): return answer
        handlers = [check]
    class Uses:
        handlers, method = Job.handlers, Model.other
    def call(handlers=Job.handlers): return handlers[0](None)
    Base.check.peers = [Model, Job.check]
    table = {Job.check: "job", Model.check: "base"}
    def shared(): return [rule(Model()) for rule in Model.rules["check"]]
    def own(): return call(), Uses.handlers[0](None), Uses().method()
    def same():
        check, other = Base.rules["check"]
        return check is Base.check, other is Base.other is Uses.method, Job.handlers[0] is Job.check
    def keys(): return table[Job.check], table[Base.check]
    def inside(): return Base.check.peers[1](None), Base.check.peers[0] is Model
"""


@pytest.mark.parametrize("name", ["shared", "own", "same", "keys", "inside"])
def test_a_method_is_found_before_its_class_is_filled(pair, script, name):
    main = script(REFERENCES)
    work = getattr(main, name)
    assert pair.run(work) == work()
    for cls in (main.Uses, main.Job, main.Base):
        cls.changed = 1
        assert pair.run(work) == work()
    assert pair.run(work, worker=pair.start_worker()) == work()


def test_methods_keep_their_identity_while_their_class_changes(pair, script):
    main = script("""
        def mark(function):
            function.enabled = True
            return function
        class Model:
            rate = 0.1
            @mark
            def step(self, factor=1): return self.rate * factor
            @mark
            def kind(self): return __class__.__name__
            another = step
        cost, active = {Model.step: 3}, [Model.step, Model.kind]
        def work():
            same = Model.another is Model.step is active[0]
            return cost[Model.step], Model().step(), Model().kind(), same
        def enabled(): return [method.enabled for method in active]
        def longer(self, factor=5, *, sign=-1): return self.rate * factor * sign
        def count(self): yield self.rate
    """)
    assert (pair.run(main.work), pair.run(main.enabled)) == (main.work(), [True, True])
    main.Model.rate = 1
    main.Model.kind.enabled = False
    assert (pair.run(main.work), pair.run(main.enabled)) == (main.work(), [True, False])
    main.Model.step.__code__ = main.longer.__code__
    main.Model.step.__defaults__, main.Model.step.__kwdefaults__ = (5,), {"sign": -1}
    assert pair.run(main.work) == (3, -5, "Model", True)
    main.Model.step.__defaults__, main.Model.step.__kwdefaults__ = (2,), {"sign": 1}
    del main.Model.kind.enabled
    main.Model.kind.enabled = 7
    assert (pair.run(main.work), pair.run(main.enabled)) == (main.work(), [True, 7])


def test_a_method_that_is_replaced_is_not_what_others_hold(pair, script):
    main = script("""
        class Model:
            def step(self): return "old"
            def kind(self): return "kind"
        held, other = [Model.step], [Model.kind]
        def work(): return held[0](None), Model().step(), other[0] is Model.kind
        def replace():
            def step(self): yield "new"
            step.__qualname__ = "Model.step"
            Model.step = step
        def wrap(function):
            def step(self): return "wrapped " + function(self)
            step.__qualname__ = "Model.step"
            return step
        def next_step(): return next(Model().step()), next(Model().step())
    """)
    assert pair.run(main.work) == ("old", "old", True)
    for _ in range(2):
        main.Model.step = main.wrap(main.Model.step)
        assert pair.run(main.work) == main.work()
    main.Model.kind, main.Model.step = main.Model.step, main.Model.kind
    assert pair.run(main.work) == main.work()
    main.replace()
    assert pair.run(main.next_step) == ("new", "new")


def test_what_a_task_puts_in_place_of_a_method_stays_as_it_is(pair, script):
    main = script("""
        class Model:
            rate = 1
            def step(self): return self.rate
        class Other:
            def step(self): return "other"
        def patch(): Model.step = Other.step
        def work(): return Model().step(), Other().step()
    """)
    pair.run(main.work)
    pair.run(main.patch)
    assert pair.run(main.work) == ("other", "other")
    main.Model.rate = 2
    assert pair.run(main.work) == (2, "other")


def test_methods_with_captured_values_that_others_share(pair, script):
    main = script("""
        def make():
            n, held = 0, []
            class Counter:
                def up(self):
                    nonlocal n
                    n += 1
                    return n, held
                def kind(self): return __class__
            class Peer(Counter):
                kind = Counter.kind
                def read(self): return n
            held += [Counter.up, Peer]
            def get(): return n
            return Counter, Peer, get
        Counter, Peer, get = make()
        def work():
            n, held = Peer().up()
            found = n == get() == Peer().read(), held[0] is Counter.up, held[1] is Peer
            return found, Peer().kind() is Counter
    """)
    for changed in range(3):
        assert pair.run(main.work) == ((True, True, True), True)
        main.Peer.changed = changed
    main.Counter.changed = 1
    assert pair.run(main.work)[0][0] is True


def test_an_older_payload_does_not_change_the_methods_of_a_newer_class(pair, script):
    main = script("""
        class Model:
            def step(self, factor=2): return factor
            def gone(self): return "gone"
            handlers = [step, gone]
        table = {"handlers": Model.handlers}
        def work(): return Model().step(), len(Model.handlers)
        def later(): return [handler(None) for handler in table["handlers"]], Model().step()
    """)
    assert pair.run(main.work) == (2, 2)
    old = pair.encode(main.later)
    main.Model.step.__defaults__ = (3,)
    del main.Model.gone
    assert pair.run(main.work) == (3, 2)
    worker = pair.worker
    worker.ask(b"load" + old.digest, old.payload)
    assert worker.eval("later()") == "([2, 'gone'], 3)"
    assert pair.run(main.later) == ([3, "gone"], 3)


def test_a_class_follows_the_functions_that_it_holds(pair, script):
    main = script("""
        def clip(x, low=0, high=10): return max(low, min(high, x))
        def scale(x): return x * scale.factor
        scale.factor = 2
        class Stage:
            clip = staticmethod(clip)
            steps = [scale]
        def work(x): return Stage.clip(x), clip(x), Stage.steps[0](x), Stage.steps[0] is scale
    """)
    assert pair.run(main.work, 50) == (10, 10, 100, True)
    main.clip.__defaults__ = (0, 20)
    main.scale.factor = 3
    assert pair.run(main.work, 50) == (20, 20, 150, True)
    main.Stage.other = 1
    assert pair.run(main.work, 50) == (20, 20, 150, True)


def test_a_class_has_the_method_of_its_base_when_both_have_changed(pair, script):
    main = script("""
        def make():
            n = 0
            class Base:
                def step(self): return n, factor
                factor = 1
            class Derived(Base):
                step = Base.step
            def get(): return n
            return Derived, Base, get
        factor = 1
        Derived, Base, get = make()
        def first(): return get()
        def work(): return Base.step is Derived.step, Derived().step(), get()
    """)
    assert pair.run(main.first) == 0
    for factor in range(3):
        main.factor = factor
        assert pair.run(main.work) == (True, (0, factor), 0)
        main.Derived.step.note = main.Derived.note = factor


def test_what_holds_a_function_holds_it_when_another_takes_its_place(pair, script):
    main = script("""
        import functools
        def clip(x): return "old clip"
        class Model:
            def step(self): return "old step"
        class Holder:
            clip, step = staticmethod(clip), staticmethod(Model.step)
        class Other(Model):
            step = Model.step
        pair = (clip, Model.step)
        call = functools.partial(Model.step, None)
        def work(): return Holder.clip(1), Holder.step(1), Other().step(), pair[0](1), pair[1](1)
        def now(): return clip(1), Model().step()
        def active(): return handlers[0] is Model.step, handlers[0](None)
    """)
    main.handlers = [main.Model.step]
    old = ("old clip", "old step", "old step", "old clip", "old step")
    assert (pair.run(main.work), pair.run(main.call)) == (old, "old step")
    assert pair.run(main.active) == (True, "old step")
    script(
        """
        def clip(x): return "new clip"
        def step(self): return "new step"
        step.__qualname__ = "Model.step"
        Model.step = step
        handlers = [step]
        del step
        """,
        main,
    )
    assert pair.run(main.now) == ("new clip", "new step")
    assert (pair.run(main.work), pair.run(main.call)) == (old, "old step")
    assert pair.run(main.active) == (True, "new step")
    assert pair.run(main.work, worker=pair.start_worker()) == old
