"""Say what cannot be pickled in an object, and where it hides.

Only errors pay for this. One lenient pickling finds every object that refuses,
by pickling a placeholder in its stead; that also gives the size of the rest. A
bounded breadth-first walk then finds the shortest path to one of them.
"""

from __future__ import annotations

import copyreg
import functools
import io
import os
import pickle
import time
import types
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from cloudpickle import cloudpickle as internals

from bireme import _by_value
from bireme._classes import definition
from bireme._fingerprint import contents, global_names
from bireme._rebuild import ABSENT
from bireme._rules import MAIN
from bireme._stream import identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bireme._rules import Rules

_NODES_MAX = 200_000
_SECONDS_MAX = 2.0
_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray, type(...))
_REFUSALS = ("cannot pickle", "can't pickle", "can't get local object", "cannot serialize")
#: Code whose frames are not the user's own ``__reduce__``.
_MACHINERY = (
    copyreg.__file__,
    pickle.__file__,
    os.path.dirname(internals.__file__) + os.sep,
    os.path.dirname(_by_value.__file__) + os.sep,
)


class _Lenient(_by_value.Pickler):
    """Pickle everything that agrees to it, and note what does not."""

    def __init__(
        self, file: io.BytesIO, rules: Rules, root: type | None, names: frozenset[tuple[str, str]]
    ) -> None:
        super().__init__(file, rules, root, names)
        self.refused: list[tuple[Any, Exception]] = []

    def reducer_override(self, obj: Any) -> Any:
        """Reduce as usual, or to a placeholder if that fails."""
        try:
            reduced = super().reducer_override(obj)
            if isinstance(reduced, str) or (
                reduced is NotImplemented and issubclass(type(obj), (type, types.FunctionType))
            ):
                pickle.dumps(obj, 5)
            elif reduced is NotImplemented:
                reduced = obj.__reduce_ex__(5)
        except Exception as error:
            self.refused.append((obj, error))
            return (str, ())
        return reduced


def _survey(obj: Any, rules: Rules) -> tuple[list[tuple[Any, Exception]], int]:
    """Return what refuses in an object and all it needs, and the bytes of the rest."""
    refused: list[tuple[Any, Exception]] = []
    size = 0
    todo: list[tuple[Any, type | None, frozenset[Any]]] = [(obj, None, frozenset())]
    known: set[Any] = set()
    while todo:
        value, root, names = todo.pop()
        with io.BytesIO() as file:
            pickler = _Lenient(file, rules, root, names)
            try:
                pickler.dump(value)
            except Exception as error:  # a part that no reducer sees, such as a list of itself
                if not pickler.refused:
                    refused.append((value, error))
            refused += pickler.refused
            size += file.tell() + sum(identity(b)[1] for b in pickler.buffers)
        for uid, cls in pickler.needs.units.items():
            if uid not in known:
                known.add(uid)
                todo.append((definition(cls, rules)[:2], cls, frozenset()))
        for key, (space, optional) in pickler.needs.names.items():
            if key not in known and not optional:
                known.add(key)
                if (item := space.variables.get(key[1], ABSENT)) is not ABSENT:
                    todo.append((item, None, frozenset((key,))))
    return refused, size


def _path(
    roots: list[tuple[str, Any]], refused: list[tuple[Any, Exception]], rules: Rules
) -> tuple[str, Any, Exception, type | None] | None:
    """Return the shortest path to an object that refuses, and the class in which it is."""
    wanted = {id(obj): (obj, error) for obj, error in refused}
    deadline = time.monotonic() + _SECONDS_MAX
    queue: deque[tuple[str, Any, type | None]] = deque((*root, None) for root in roots)
    seen: dict[int, Any] = {}
    while queue and len(seen) < _NODES_MAX and time.monotonic() < deadline:
        where, obj, cls = queue.popleft()
        if isinstance(obj, type):
            cls = obj
        if id(obj) in wanted:
            return (where, *wanted[id(obj)], cls)
        if id(obj) in seen or type(obj) in _ATOMS:
            continue
        seen[id(obj)] = obj
        try:
            children = islice(_children(where, obj, rules), _NODES_MAX)
            queue.extend((*child, cls) for child in children)
        except Exception:  # a hostile attribute hides its children only
            continue
    return None


def _children(where: str, obj: Any, rules: Rules) -> Iterator[tuple[str, Any]]:
    """Yield what an object holds, each with the path to it."""
    if isinstance(obj, types.FunctionType):
        if rules.needs_by_value(obj):
            yield from _inside_function(where, obj, rules)
        return
    if isinstance(obj, type):
        if rules.needs_by_value(obj):
            for name, value in list(vars(obj).items()):
                yield f"{where}.{name}", value
            for base in obj.__bases__:
                yield f"{where} → base {base.__name__!r}", base
        return
    if isinstance(obj, types.ModuleType):
        return
    if isinstance(obj, types.MethodType):
        yield f"{where}.__self__", obj.__self__
        yield f"{where}.__func__", obj.__func__
    elif isinstance(obj, functools.partial):
        yield f"{where}.func", obj.func
        yield from _items(f"{where}.args", obj.args)
        yield from _entries(f"{where}.keywords", obj.keywords)
    elif isinstance(obj, (staticmethod, classmethod)):
        yield f"{where}.__func__", obj.__func__
    elif isinstance(obj, property):
        yield f"{where}.fget", obj.fget
        yield f"{where}.fset", obj.fset
    elif hasattr(type(obj), "cache_parameters"):
        yield f"{where}.__wrapped__", obj.__wrapped__
    if isinstance(obj, (list, tuple, deque)):
        yield from _items(where, obj)
    elif isinstance(obj, (set, frozenset)):
        for item in obj:
            yield f"{where} → item {_short(item)}", item
    elif isinstance(obj, dict):
        yield from _entries(where, obj)
    yield from _attributes(where, obj)
    yield f"the class of {where}", type(obj)


def _inside_function(where: str, fn: types.FunctionType, rules: Rules) -> Iterator[tuple[str, Any]]:
    space = rules.namespace(fn)
    if space.travels or space.is_private:
        for name in global_names(fn.__code__)[0]:
            if (value := space.variables.get(name, ABSENT)) is not ABSENT:
                yield f"{where} → global {name!r}", value
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        if (value := contents(cell)) is not ABSENT:
            yield f"closure variable {name!r} of {where}", value
    defaults = fn.__defaults__ or ()
    arguments = fn.__code__.co_varnames[: fn.__code__.co_argcount]
    for name, value in zip(reversed(arguments), reversed(defaults), strict=False):
        yield f"default of argument {name!r} of {where}", value
    for name, value in (fn.__kwdefaults__ or {}).items():
        yield f"default of argument {name!r} of {where}", value
    yield from ((f"{where}.{name}", value) for name, value in vars(fn).items())


def _items(where: str, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{where}[{position}]", value) for position, value in enumerate(values))


def _entries(where: str, mapping: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in list(dict.items(mapping)):  # a subclass may have endless ones
        yield f"{where}[{_short(key)}]", value
        yield f"{where} → key {_short(key)}", key


def _attributes(where: str, obj: Any) -> Iterator[tuple[str, Any]]:
    attributes = getattr(obj, "__dict__", None)
    if type(attributes) is dict:  # not what a `__getattr__` makes up
        yield from ((f"{where}.{name}", value) for name, value in list(attributes.items()))
    for cls in type(obj).__mro__:
        for name, member in vars(cls).items():
            if isinstance(member, types.MemberDescriptorType):
                value = getattr(obj, name, ABSENT)
                if value is not ABSENT:
                    yield f"{where}.{name}", value


def _short(obj: Any) -> str:
    try:
        text = repr(obj)
    except Exception:
        text = f"<{type(obj).__name__}>"
    return text if len(text) <= 40 else text[:37] + "..."


def _roots(obj: Any, label: str | Sequence[str]) -> list[tuple[str, Any]]:
    if isinstance(label, str):
        return [(label, obj)]
    return list(zip(label, obj, strict=False))


def _kind(obj: Any) -> str:
    kind = type(obj)
    name = kind.__qualname__
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"


def describe(obj: Any, label: str | Sequence[str], rules: Rules) -> str:
    """Say what cannot be pickled in an object; see `bireme.serialize.diagnose`."""
    return _describe(obj, label, rules)[0]


def _describe(
    obj: Any, label: str | Sequence[str], rules: Rules
) -> tuple[str, str, Exception | None, type | None]:
    shown = label if isinstance(label, str) else " and ".join(label)
    refused, size = _survey(obj, rules)
    if not refused:
        return (f"{shown} can be pickled ({size:,} bytes)", shown, None, None)
    found = _path(_roots(obj, label), refused, rules)
    rest = f"; the rest of {shown} is {size:,} bytes"
    if found is None:
        culprit, error = refused[0]
        where, cls = f"something inside of {shown}", None
    else:
        where, culprit, error, cls = found
    return (f"{where} is a {_kind(culprit)} object: {error}{rest}", where, error, cls)


def explained(error: Exception, obj: Any, label: str | Sequence[str], rules: Rules) -> Exception:
    """Turn a refusal into a `PicklingError` that says what hides where.

    An exception that the user's own code raised while being pickled keeps its
    type and only gets a note.
    """
    from bireme.errors import PicklingError

    if isinstance(error, PicklingError):
        return error
    cls = None
    try:
        text, where, refusal, cls = _describe(obj, label, rules)
        if refusal is None:  # it did not refuse again
            text = f"{where}: {error}"
    except Exception:  # the explanation must not hide what it explains
        text = where = label if isinstance(label, str) else " and ".join(label)
        text += f": {error}"
    if _is_refusal(error):
        error = PicklingError(f"cannot pickle: {text}")
        if cls is not None and rules.by_value_main and cls.__module__ in MAIN:
            error.add_note(
                f"hint: put the class {cls.__qualname__!r} into a module that the workers can import, "
                "or use start_method='fork'"
            )
        elif "global '" in where:
            error.add_note(
                "hint: what each process needs one of its own of, such as a lock or a connection, "
                "is made by the pool's initializer instead"
            )
    else:
        error.add_note(f"raised while {where} was pickled")
    return error


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, pickle.PicklingError):
        return True
    if isinstance(error, (TypeError, AttributeError)) and str(error).lower().startswith(_REFUSALS):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or trace.tb_frame.f_code.co_filename.startswith(_MACHINERY)
