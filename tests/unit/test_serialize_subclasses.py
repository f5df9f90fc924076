"""Code that asks a class for its subclasses finds in the worker what it finds at home."""

from __future__ import annotations

import pytest

SOURCE = """
    import threading
    class Codec:
        @classmethod
        def find(cls, name):
            return next(c for c in cls.__subclasses__() if c.name == name)
    class Csv(Codec): name = "csv"
    class Json(Codec): name = "json"
    class Fast(Json): name = "fast"
    def direct(): return [c.__name__ for c in Codec.__subclasses__()]
    def every(cls=Codec):
        return [cls.__name__, *(name for c in cls.__subclasses__() for name in every(c))]
    def nested(): return (lambda: [c.__name__ for c in Codec.__subclasses__()])()
    def by_method(name): return Codec.find(name).__name__
    def of_argument(cls, name): return cls.find(name).__name__
    def ignorant(): return Codec.__name__
"""


@pytest.mark.parametrize("name", ["direct", "nested", "every"])
def test_subclasses_are_found_and_later_ones_too(pair, script, name):
    main = script(SOURCE)
    fn = getattr(main, name)
    assert pair.run(fn) == fn()
    script("class Late(Codec): name = 'late'\nclass Later(Late): name = 'later'", main)
    assert pair.run(fn) == fn()
    assert "Late" in fn()


def test_subclasses_are_found_by_a_method(pair, script):
    main = script(SOURCE)
    assert [pair.run(main.by_method, name) for name in ("csv", "json")] == ["Csv", "Json"]
    assert pair.run(main.of_argument, main.Codec, "csv") == "Csv"
    script("class Late(Codec): name = 'late'", main)
    assert pair.run(main.by_method, "late") == "Late"
    assert pair.run(main.of_argument, main.Codec, "late") == "Late"


def test_a_lambda_in_arguments_finds_subclasses(pair, script):
    main = script(SOURCE)
    script("def call(fn): return fn(), Codec.__name__", main)
    script("lam = lambda: [c.__name__ for c in Codec.__subclasses__()]", main)
    assert pair.run(main.call, main.lam)[0] == ["Csv", "Json"]


def test_subclasses_that_cannot_be_pickled_are_left_out(pair, script):
    main = script(SOURCE)
    script(
        """
        class Locked(Codec):
            name, lock = "locked", threading.Lock()
        class Using(Codec):
            name = "using"
            def guard(self): return guard
        guard = threading.Lock()
        class Last(Codec): name = "last"
    """,
        main,
    )
    assert pair.run(main.direct) == ["Csv", "Json", "Last"]
    main.guard = None
    assert pair.run(main.direct) == ["Csv", "Json", "Last", "Using"]


def test_other_functions_bring_no_subclasses(pair, script):
    main = script(SOURCE)
    del main.Codec.find
    assert pair.run(main.ignorant) == "Codec"
    assert "Csv" not in pair.worker.eval("[c.__name__ for c in Codec.__subclasses__()]")
    function = pair.encode(main.ignorant)
    assert not function.mutable
    assert pair.encode(main.direct).mutable


def test_a_result_brings_no_subclasses(pair, script):
    main = script(SOURCE)
    script(
        """
        def make():
            class Local(Codec):
                name = "local"
                def others(self): return Codec.__subclasses__()
            class More(Local): name = "more"
            return Local
    """,
        main,
    )
    local = pair.run(main.make)
    assert (local.__subclasses__(), local.name) == ([], "local")
