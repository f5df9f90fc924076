"""A caller and a worker for the tests of `bireme.serialize`, in two processes.

The caller's ``__main__`` is a fresh module in this process; the worker is a new
interpreter whose ``__main__`` is empty. `Pair.run` does what a pool does.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import types
from pathlib import Path

from bireme import errors
from bireme.serialize import Decoder, Encoder

__all__ = ["Decoder", "Encoder", "errors"]


def send(file, *parts: bytes) -> None:
    """Write byte strings, each with its length before it."""
    file.write(struct.pack("<I", len(parts)))
    for part in parts:
        with memoryview(part) as view:
            file.write(struct.pack("<Q", view.nbytes))
            file.write(view.cast("B") if view.nbytes else b"")
    file.flush()


def receive(file) -> list[bytearray]:
    """Read what `send` wrote; an empty list at the end of the file."""
    head = file.read(4)
    if not head:
        return []
    return [
        bytearray(file.read(struct.unpack("<Q", file.read(8))[0]))
        for _ in range(struct.unpack("<I", head)[0])
    ]


def serve() -> None:
    """Serve one caller, in a worker's process."""
    source = os.fdopen(os.dup(0), "rb")
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    decoder = Decoder(by_value_main=sys.argv[1] == "True")
    functions = {}
    while parts := receive(source):
        operation, payload, *buffers = parts
        try:
            if operation == b"eval":
                answer = repr(eval(payload.decode(), sys.modules["__main__"].__dict__))
            elif operation.startswith(b"load"):
                functions[bytes(operation[4:])] = decoder.load_function(payload, buffers)
                answer = None
            else:
                args = decoder.loads(payload, buffers)
                answer = functions[bytes(operation[4:])](*args)
            status = b"ok"
        except Exception as error:
            status, answer = b"error", error.with_traceback(None)
        try:
            out = []
            send(target, status, pickle.dumps(answer, 5, buffer_callback=out.append), *raw(out))
        except Exception:
            try:
                payload, out = decoder.dumps_result(answer)
            except Exception as error:
                status, out = b"error", []
                payload = pickle.dumps(RuntimeError(repr(error)), 5)
            send(target, status, payload, *raw(out))


def raw(buffers) -> list[memoryview]:
    """Return the bytes of picklable buffers."""
    return [buffer.raw() for buffer in buffers]


def run_script(monkeypatch, source: str, module=None) -> types.ModuleType:
    """Run source text as the caller's ``__main__``; again with the module to add a cell."""
    if module is None:
        module = types.ModuleType("__main__")
        monkeypatch.setitem(sys.modules, "__main__", module)
    code = compile(textwrap.dedent(source), "<script>", "exec", dont_inherit=True)
    exec(code, module.__dict__)
    return module


class Worker:
    """A worker's process."""

    def __init__(self, by_value_main: bool = True) -> None:
        here = Path(__file__)
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"__import__({here.stem!r}).serve()", str(by_value_main)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), *sys.path])},
        )
        self.loaded: set[bytes] = set()

    def ask(self, *parts: bytes):
        """Send a request; return the status and the raw answer."""
        send(self.process.stdin, *parts)
        status, *answer = receive(self.process.stdout)
        return bytes(status), answer

    def eval(self, expression: str) -> str:
        """Return the repr of an expression in the worker's ``__main__``."""
        status, answer = self.ask(b"eval", expression.encode())
        if status == b"error":
            raise pickle.loads(answer[0])
        return pickle.loads(answer[0])

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Pair:
    """An encoder with its workers, used as a pool uses them."""

    def __init__(self, by_value_main: bool = True) -> None:
        self.by_value_main = by_value_main
        self.encoder = Encoder(by_value_main=by_value_main)
        self.workers: list[Worker] = []
        self.functions: dict[int, tuple[object, object]] = {}
        # By digest: how the function was placed last, by which number, and what is known by that.
        self.placed: dict[bytes, tuple[bytes, bytes, list[pickle.PickleBuffer], object]] = {}
        self.encodes = 0
        self.sends = 0
        self.arguments_bytes = 0

    @property
    def worker(self) -> Worker:
        """The first worker, started at first use."""
        return self.workers[0] if self.workers else self.start_worker()

    def start_worker(self) -> Worker:
        """Start one more worker."""
        self.workers.append(Worker(self.by_value_main))
        return self.workers[-1]

    def encode(self, fn):
        """Return the function's pickle, made anew if it may have changed."""
        known = self.functions.get(id(fn))
        if known is not None:
            made = known[1]
            if made.stable or (made.unchanged() and not made.mutable):
                return made
        made = self.encoder.encode_function(fn)
        self.encodes += 1
        self.functions[id(fn)] = (fn, made)
        return made

    def run(self, fn, *args, worker: Worker | None = None):
        """Run ``fn(*args)`` in a worker."""
        worker = worker or self.worker
        function = self.encode(fn)
        buffers: list[pickle.PickleBuffer] = []
        payload = b""
        with contextlib.suppress(Exception):
            payload = pickle.dumps(args, 5, buffer_callback=buffers.append)
        if not payload or b"__main__" in payload:
            payload, buffers = self.encode_arguments(function, args)
        number = self.load(function, worker)
        self.arguments_bytes += len(payload)
        return self.result(*worker.ask(b"call" + number, payload, *raw(buffers)))

    def encode_arguments(self, function, args):
        """Pickle arguments; the function may be placed anew for them."""
        *_, known = self.place(function)
        payload, buffers, anew = self.encoder.encode_arguments(args, function, known)
        if anew is not None:
            self.placed[function.digest] = (os.urandom(8), *anew)
        return payload, buffers

    def place(self, function):
        """Return where a function was placed last."""
        first = (function.digest, function.payload, function.buffers, function.known)
        return self.placed.setdefault(function.digest, first)

    def load(self, function, worker: Worker) -> bytes:
        """Have a worker load a function as it was placed last."""
        number, payload, buffers, _ = self.place(function)
        if number not in worker.loaded:
            self.result(*worker.ask(b"load" + number, payload, *raw(buffers)))
            worker.loaded.add(number)
            self.sends += 1
        return number

    def result(self, status: bytes, answer: list[bytearray]):
        """Return or raise what a worker answered."""
        value = self.encoder.loads_result(answer[0], answer[1:])
        if status == b"error":
            raise value
        return value

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.close()


#: A script with a class of every ordinary kind.
CLASSES = """
    import abc, dataclasses, enum, typing
    @dataclasses.dataclass
    class Point:
        x: int
        y: int = 0
    @dataclasses.dataclass(frozen=True, slots=True)
    class Slotted:
        x: int
    class Color(enum.Enum):
        RED = 1
        BLUE = 2
        def other(self):
            return Color.BLUE if self is Color.RED else Color.RED
    class Flags(enum.Flag):
        A = enum.auto()
        B = enum.auto()
    class Pair(typing.NamedTuple):
        a: int
        b: int = 2
    import collections
    Old = collections.namedtuple("Old", "a b")
    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self): ...
    class Square(Shape):
        def __init__(self, side):
            self.side = side
        def area(self):
            return self.side ** 2
    T = typing.TypeVar("T")
    class Box(typing.Generic[T]):
        def __init__(self, item):
            self.item = item
        def __eq__(self, other):
            return isinstance(other, Box) and self.item == other.item
    class Meta(type):
        def __call__(cls, *args):
            made = super().__call__(*args)
            made.tag = cls.__name__
            return made
    class Tagged(metaclass=Meta):
        pass
    class Base:
        def __init__(self, x):
            self.x = x
        def __init_subclass__(cls, **kwargs):
            super().__init_subclass__(**kwargs)
        def name(self):
            return "base"
    class Derived(Base):
        count = 0
        def __init__(self, x):
            super().__init__(x + 1)
        def name(self):
            return "derived " + super().name()
        @classmethod
        def make(cls, x):
            return cls(x)
        @staticmethod
        def twice(x):
            return 2 * x
        @property
        def double(self):
            return self.x * 2
        class Inner:
            pass
    class MyError(ValueError):
        def __init__(self, code, detail):
            super().__init__(code, detail)
            self.code = code
    def echo(value):
        return type(value).__name__, value
"""
