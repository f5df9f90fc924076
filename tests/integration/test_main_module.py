"""Scripts, the REPL and notebooks: `__main__` in the worker is like `__main__` in the caller."""

from __future__ import annotations

import pytest

ALL = ("template", "fork", "spawn", "forkserver")
#: Those that import the script again need its guard, as in `multiprocessing`.
NO_GUARD = ("template", "fork")


@pytest.mark.parametrize("method", NO_GUARD)
def test_a_script_without_a_guard_runs_once(run_script, method):
    result = run_script(
        """
        import os, sys
        import bireme
        print("body runs")
        with open("body", "a") as file:
            file.write("once")

        scale = 3

        def work(x):
            return x * scale

        with bireme.Pool(2, start_method=sys.argv[1]) as pool:
            print(pool.map(work, range(5)))
            print(list(pool.imap(lambda x: x + scale, range(3))))
        assert open("body").read() == "once"
        """,
        args=[method],
    ).check()
    assert result.stdout.splitlines() == ["body runs", "[0, 3, 6, 9, 12]", "[3, 4, 5]"]


@pytest.mark.parametrize("method", ALL)
def test_init_sets_a_global_that_work_reads(run_script, method):
    run_script(
        """
        import sys
        import bireme

        model, count = None, 0

        def init(value):
            global model
            model = {"value": value}

        def work(x):
            global count
            count += 1
            return model["value"] * x, count

        def read_count():
            return count

        if __name__ == "__main__":
            with bireme.Pool(1, init, (7,), start_method=sys.argv[1]) as pool:
                assert pool.map(work, range(3)) == [(0, 1), (7, 2), (14, 3)]
                assert pool.apply(read_count) == 3, "functions of one module share its globals"
                assert pool.apply(work, (1,)) == (7, 4)
            assert model is None and count == 0
        """,
        args=[method],
    ).check()


def test_a_global_changed_by_the_caller_is_sent_again(run_script):
    """And one that a task set stays, as long as the caller does not change it."""
    run_script("""
        import bireme
        setting, memory = "a", []

        def read():
            return setting

        def remember(x):
            memory.append(x)
            return list(memory)

        with bireme.Pool(1) as pool:
            assert pool.apply(read) == "a"
            setting = "b"
            assert pool.apply(read) == "b"
            assert pool.apply(remember, (1,)) == [1]
            assert pool.apply(remember, (2,)) == [1, 2]
            assert memory == []
    """).check()


def test_what_an_initializer_did_stays_when_more_names_are_sent(run_script):
    run_script("""
        import bireme

        class App:
            def __init__(self, config):
                self.config, self.connection = config, None

        config = {"n": 1}
        app = App(config)

        def connect():
            app.connection = "open"

        def work(x):
            return app.connection

        def more(x):
            return app.connection, config["n"], app.config is config

        with bireme.Pool(1, connect) as pool:
            assert pool.map(work, [1]) == ["open"]
            assert pool.map(more, [1]) == [("open", 1, True)]
            assert pool.map(work, [1]) == ["open"]
    """).check()


def test_a_sentinel_of_the_script_is_the_default_of_a_method(run_script):
    run_script("""
        import bireme

        MISSING = object()

        class Options(dict):
            def read(self, key, default=MISSING):
                value = self.get(key, default)
                if value is MISSING:
                    raise KeyError(key)
                return value

        def work(key):
            return Options(a=1).read(key)

        with bireme.Pool(1) as pool:
            assert pool.apply(work, ("a",)) == 1
            try:
                pool.apply(work, ("b",))
            except KeyError:
                pass
            else:
                raise AssertionError("the default is no value")
    """).check()


def test_the_first_value_of_the_caller_replaces_what_a_task_has_set(run_script):
    run_script("""
        import bireme

        def put():
            global setting
            setting = "worker"

        def read():
            return setting

        with bireme.Pool(1) as pool:
            pool.apply(put)
            assert pool.apply(read) == "worker"
            setting = "caller"
            assert pool.apply(read) == "caller"
    """).check()


def test_a_value_bound_anew_that_is_the_same_is_looked_at_once(run_script):
    run_script("""
        import bireme
        from bireme.serialize import Encoder

        encode, calls = Encoder.encode_function, []

        def counted(self, function):
            calls.append(function)
            return encode(self, function)

        Encoder.encode_function = counted
        pair = (1, 2)

        def read():
            return pair

        with bireme.Pool(1) as pool:
            assert pool.apply(read) == (1, 2)
            pair = tuple([1, 2])
            assert [pool.apply(read) for _ in range(3)] == [(1, 2)] * 3
        assert calls == [read, read]
    """).check()


def test_new_and_deleted_attributes_are_sent(run_script):
    run_script("""
        from collections import namedtuple
        import bireme

        class Config: pass

        State = namedtuple("State", "weights step")

        def read(_):
            return getattr(Config, "rate", "unset")

        def count(_):
            return getattr(count, "n", "unset")

        def capture(state):
            return lambda _: state.weights

        state = State([1], 0)
        weights = capture(state)

        with bireme.Pool(1) as pool:
            def see():
                functions = (read, count, weights)
                by_apply = [pool.apply(function, (0,)) for function in functions]
                assert by_apply == [pool.map(function, [0])[0] for function in functions]
                return by_apply

            assert see() == ["unset", "unset", [1]]
            Config.rate, count.n = 5, 7
            state.weights.append(2)
            assert see() == [5, 7, [1, 2]]
            del Config.rate, count.n
            assert see() == ["unset", "unset", [1, 2]]
    """).check()


@pytest.mark.parametrize("method", ALL)
def test_classes_of_main_keep_their_identity(run_script, method):
    run_script(
        """
        import abc, dataclasses, enum, sys, typing
        import bireme

        class Color(enum.Enum):
            RED = 1
            BLUE = 2

        @dataclasses.dataclass(frozen=True)
        class Point:
            x: int
            color: Color = Color.RED

        class Pair(typing.NamedTuple):
            a: Point
            b: Point

        class Trouble(Exception):
            def __init__(self, code):
                super().__init__(code)
                self.code = code

        class Shape(abc.ABC):
            @abc.abstractmethod
            def area(self): ...

        class Square(Shape):
            made = 0
            def __init__(self, side):
                type(self).made += 1
                self.side = side
            def area(self):
                return self.side ** 2

        def work(pair):
            assert isinstance(pair, Pair) and type(pair.a) is Point
            assert pair.a.color is Color.RED
            if pair.a.x == 3:
                raise Trouble(pair.a.x)
            return Pair(pair.b, dataclasses.replace(pair.a, color=Color.BLUE))

        def square(side):
            return Square(side)

        def attributes(cls):  # but for the cache that pickle keeps in every class
            return {name: value for name, value in vars(cls).items() if name != "__slotnames__"}

        if __name__ == "__main__":
            before = attributes(Color), attributes(Point)
            with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                for _ in range(3):
                    result = pool.map(work, [Pair(Point(i), Point(i + 1)) for i in range(3)], 1)
                    assert all(type(r) is Pair and type(r.a) is Point for r in result)
                    assert all(r.b.color is Color.BLUE and r.a.color is Color.RED for r in result)
                    assert result[1] == Pair(Point(2), Point(1, Color.BLUE))
                try:
                    pool.apply(work, (Pair(Point(3), Point(4)),))
                except Trouble as trouble:
                    assert type(trouble) is Trouble and trouble.code == 3
                else:
                    raise AssertionError("nothing was raised")
                Square.made = 100
                shape = pool.apply(square, (5,))
                assert isinstance(shape, Square) and isinstance(shape, Shape)
                assert shape.area() == 25
                assert Square.made == 100, "the caller's class is never modified"
            assert before == (attributes(Color), attributes(Point))
        """,
        args=[method],
    ).check()


@pytest.mark.parametrize("method", ALL)
def test_classes_of_main_find_globals_and_each_other(run_script, method):
    run_script(
        """
        import collections, enum, sys
        import bireme

        Point = collections.namedtuple("Point", "x y")
        ORIGIN = Point(1, 2)

        class Planet(enum.Enum):
            EARTH = (5.976e+24, 6.37814e6)
            MARS = (6.421e+23, 3.3972e6)
            def __init__(self, mass, radius):
                self.mass, self.radius = mass, radius

        REGISTRY = {}

        class Plugin:
            def __init_subclass__(cls, /, key, **kwargs):
                super().__init_subclass__(**kwargs)
                REGISTRY[key] = cls

        class Csv(Plugin, key="csv"):
            def run(self):
                return sorted(REGISTRY)

        class Key:
            def __init__(self, n): self.n = n
            def __hash__(self): return hash(self.n * SCALE)
            def __eq__(self, other): return self.n == other.n

        SCALE = 10
        TABLE = {Key(1): "one"}

        class Err(Exception):
            by_code = {}

        class NotFound(Err):
            pass

        Err.by_code[404] = NotFound

        def work(planet):
            return ORIGIN.x, planet.mass, Csv().run(), REGISTRY["csv"] is Csv, TABLE[Key(1)]

        def fail(code):
            raise Err.by_code[code]("x")

        if __name__ == "__main__":
            with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                expected = [(1, planet.mass, ["csv"], True, "one") for planet in Planet]
                assert pool.map(work, Planet) == expected
                try:
                    pool.apply(fail, (404,))
                except NotFound as error:
                    assert error.args == ("x",)
                else:
                    raise AssertionError("nothing was raised")
        """,
        args=[method],
    ).check()


@pytest.mark.parametrize("method", NO_GUARD)
def test_the_classes_of_arguments_cross_once_a_worker(run_script, method):
    """Whatever function gets them; a worker that is born later has them, too."""
    run_script(
        """
        import functools, operator, os, signal, sys
        import bireme

        pool = bireme.Pool(2, start_method=sys.argv[1])  # a fork has nothing of what follows

        def attributes(number):
            return {f"method{i}": lambda self: (self.x, "some text") for i in range(number)}

        class Point:
            def __init__(self, x): self.x = x
        for name, value in attributes(50).items():
            setattr(Point, name, value)

        class Other(Point):
            pass

        def get_x(point):
            return point.x

        def get_x_or_die(point):
            if point.x < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return point.x

        def sent():
            return pool.statistics()["bytes_sent"]

        def run(function, points):
            expected = [point.x for point in points]
            assert pool.map(function, points, 1) == expected
            assert list(pool.imap(function, points)) == expected
            assert [pool.apply(function, (point,)) for point in points] == expected

        for function in get_x, operator.attrgetter("x"), functools.partial(get_x), lambda p: p.x:
            points = [(Point, Other)[n % 2](n) for n in range(100)]
            run(function, points)
            before = sent()
            run(function, points)
            assert sent() - before < 300 * 200, (function, sent() - before)

        points = [Point(n) for n in range(100)]
        run(get_x_or_die, points)
        for _ in range(2):
            try:
                pool.apply(get_x_or_die, (Point(-1),))
            except bireme.WorkerDiedError:
                pass
        before = sent()
        run(get_x_or_die, points)
        assert sent() - before < 300 * 200
        assert pool.map(get_x_or_die, points, 1, retries=1) == list(range(100))

        Point.x = property(lambda self: 7, lambda self, x: None)
        assert pool.map(get_x, [Point(1) for _ in range(10)], 1) == [7] * 10
        pool.terminate()
        """,
        args=[method],
    ).check()


def test_spawn_without_a_guard_is_told_so(run_script):
    """The main module is imported in the worker, and makes a pool there."""
    result = run_script(
        """
        import bireme

        def double(x):
            return 2 * x

        pool = bireme.Pool(1, start_method="spawn")
        try:
            pool.apply_async(double, (1,)).get(30)
        except bireme.InitializerError as error:
            assert "if __name__ == '__main__'" in str(error), error
            print("told")
        """
    ).check()
    assert result.stdout == "told\n"
