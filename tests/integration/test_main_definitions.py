"""Classes and functions of `__main__`: in the worker they are what they are in the caller."""

from __future__ import annotations

import pytest

from tests.integration.test_main_module import ALL, NO_GUARD


@pytest.mark.parametrize("method", ALL)
def test_classes_that_keep_what_they_are_in_tasks(run_script, method):
    run_script(
        """
        import collections, dataclasses, pickle, sys
        import bireme

        @dataclasses.dataclass
        class Point:
            x: int

        class Outer:
            @dataclasses.dataclass
            class Inner:
                x: int

        @dataclasses.dataclass(slots=True)
        class Slotted:
            x: int
            def name(self):
                return __class__.__name__

        def inherit():
            @dataclasses.dataclass
            class Named(Point):
                name: str
            return Named(1, "n").name

        def row():
            return collections.namedtuple("Row", "a b")(1, 2)

        def inner(given):
            return repr(given), pickle.loads(pickle.dumps(given)) == Outer.Inner(1)

        if __name__ == "__main__":
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                assert pool.apply(inherit) == "n"
                assert pool.apply(row)._asdict() == {"a": 1, "b": 2}
                assert pool.apply(inner, (Outer.Inner(1),)) == ("Outer.Inner(x=1)", True)
                assert pool.apply(Slotted.name, (Slotted(1),)) == "Slotted"
        """,
        args=[method],
    ).check()


@pytest.mark.parametrize("method", NO_GUARD)
def test_globals_of_no_module_go_with_their_functions(run_script, method):
    run_script(
        """
        import gc, runpy, sys, weakref
        import bireme

        SOURCE = "data = [1] * 1000\\ndef work(x): return helper(x) + len(data)\\ndef helper(x): return x"
        with open("job.py", "w") as file:
            file.write(SOURCE)

        def executed():
            variables = {"__name__": "cell"}
            exec(SOURCE, variables)
            return variables

        with bireme.Pool(1, start_method=sys.argv[1]) as pool:
            for make in (executed, lambda: runpy.run_path("job.py")):
                variables = make()
                kept = weakref.ref(variables["helper"])
                assert pool.apply(variables["work"], (1,)) == 1001
                assert pool.map(variables["work"], [1, 2]) == [1001, 1002]
                del variables
                gc.collect()
                assert kept() is None, make
        """,
        args=[method],
    ).check()


@pytest.mark.parametrize("method", NO_GUARD)
def test_a_function_is_the_same_under_all_its_names(run_script, method):
    run_script(
        """
        import functools, sys
        import bireme

        memo = {}
        def memoize(fn):
            memo[fn] = {}
            @functools.wraps(fn)
            def wrapper(x):
                return memo[fn].setdefault(x, fn(x))
            return wrapper

        @memoize
        def square(x): return x * x

        def mse(a): return a * a
        loss = mse
        key = lambda x: x
        table = {key: 1}

        class Plugin:
            def on_start(self): pass
        class Mine(Plugin):
            def on_start(self): return 1
        default = Plugin.on_start

        with bireme.Pool(1, start_method=sys.argv[1]) as pool:
            assert pool.map(square, [3, 3]) == [9, 9]
            assert pool.apply(lambda: (loss is mse, table[key])) == (True, 1)
            kinds = [Plugin(), Mine()]
            assert pool.map(lambda p: type(p).on_start is default, kinds) == [True, False]
            loss = lambda a: a
            table = {loss: 2}
            assert pool.apply(lambda: (loss is mse, table[loss])) == (False, 2)
        """,
        args=[method],
    ).check()


@pytest.mark.parametrize("method", ALL)
def test_plugins_are_found_by_their_base(run_script, method):
    run_script(
        """
        import sys
        import bireme

        class Codec:
            pass
        class Csv(Codec):
            name = "csv"
        class Json(Codec):
            name = "json"

        def find(name):
            return next(c for c in Codec.__subclasses__() if c.name == name).__name__

        if __name__ == "__main__":
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                assert pool.map(find, ["csv", "json"]) == ["Csv", "Json"]
        """,
        args=[method],
    ).check()


@pytest.mark.parametrize("method", ALL)
def test_a_class_of_main_has_its_own_methods_and_attributes(run_script, method):
    """Not those of its base, and those that it is given later."""
    run_script(
        """
        import sys
        import bireme

        class Step:
            rate = 1
            def apply(self, x): return x

        class Scale(Step):
            limits, rate = [0, 10], 2
            def apply(self, x): return 3 * x
            chain = {"main": [apply]}

        class Clipped(Scale):
            limits, chain = Scale.limits, {**Scale.chain}

        cost = {Scale.apply: 5}

        def run(step, x):
            for function in step.chain["main"]:
                x = function(step, x)
            return x, cost[Scale.apply]

        def rates(_):
            return Step.rate, Scale.rate, Clipped.rate

        if __name__ == "__main__":
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                assert pool.starmap(run, [(Clipped(), 1)]) == [(3, 5)]
                assert pool.map(rates, [0]) == [(1, 2, 2)]
                if sys.argv[1] == "template":
                    for cls in (Step, Scale):
                        cls.rate = 7
                    assert pool.map(rates, [0]) == [(7, 7, 7)]
                    assert pool.starmap(run, [(Clipped(), 1)]) == [(3, 5)]
        """,
        args=[method],
    ).check()


@pytest.mark.parametrize(
    "method", NO_GUARD
)  # plain pickle does not find them in a script imported anew
def test_generic_models_of_pydantic_are_one_class(run_script, method):
    run_script(
        """
        import sys
        from typing import Generic, Optional, TypeVar
        from pydantic import BaseModel, field_validator
        import bireme

        T = TypeVar("T")

        class User(BaseModel):
            name: str

        class Result(BaseModel, Generic[T]):
            data: T

            @field_validator("data")
            @classmethod
            def check(cls, value): return value

        class Node(BaseModel, Generic[T]):
            value: T
            next: Optional["Node[T]"] = None

        class Team(BaseModel):
            first: Result[User]
            others: list[Result[User]] = []

        class Special(Result[User]):
            extra: int = 1

        UserResult = Result[User]

        def fetch(name): return Result[User](data=User(name=name))
        def is_known(result): return isinstance(result, Result[User])
        def follow(node): return node.next, isinstance(node, Node[int])
        def enlarge(team): return Team(first=team.first, others=[fetch("c"), UserResult(data=User(name="d"))])

        if __name__ == "__main__":
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                assert isinstance(pool.apply(fetch, ("a",)), UserResult)
                assert pool.map(is_known, [fetch("a"), Special(data=User(name="s")), 1]) == [True, True, False]
                node, known = pool.apply(follow, (Node[int](value=1, next=Node[int](value=2)),))
                assert known and isinstance(node, Node[int])
                team = pool.apply(enlarge, (Team(first=fetch("b")),))
                assert all(isinstance(member, UserResult) for member in (team.first, *team.others))
        """,
        args=[method],
    ).check()


@pytest.mark.parametrize("method", ALL)
def test_how_a_class_is_pickled_is_known_to_workers(run_script, method):
    run_script(
        """
        import copyreg, sys, threading
        import bireme

        class Session:
            def __init__(self, url):
                self.url, self.lock = url, threading.Lock()

        copyreg.pickle(Session, lambda session: (Session, (session.url,)))

        def renew(session):
            return Session(session.url + "!")

        if __name__ == "__main__":
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                assert pool.apply(renew, (Session("a"),)).url == "a!"
        """,
        args=[method],
    ).check()
