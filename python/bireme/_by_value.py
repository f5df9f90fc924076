"""The pickler for what plain pickle refuses, built on cloudpickle's.

It differs from cloudpickle in where things go. A stream holds no globals and no
class definitions: by-value classes are named by id, functions of a module by
their name, and the pickler's `needs` lists what the peer must be told of them.
Lambdas, local functions and captured values are inside of the stream.
"""

from __future__ import annotations

import copyreg
import functools
import io
import marshal
import operator
import pickle
import sys
import types
import weakref
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as internals

from bireme import _inherit, _named, _rebuild, _remake, _skeleton
from bireme._classes import Call, Functions, c_type, subscripted
from bireme._fingerprint import (
    HEAP_TYPE,
    LARGE_BYTES,
    annotations_of,
    asks_for_subclasses,
    contents,
    global_names,
    is_immutable,
    is_large,
)
from bireme._rebuild import ABSENT
from bireme._rules import Namespace, Rules, find
from bireme._stream import Needs, Stream, serial

Reduced = tuple[Any, ...]

_OWN = vars(_rebuild)
_LRU = type(functools.lru_cache(len))
#: Static types that no module holds under their name.
_UNNAMED = frozenset({type(None), type(...), type(NotImplemented), *internals._BUILTIN_TYPE_NAMES})


#: Packages with metaclasses in C whose classes cannot be made of what they consist of.
_CLOSED = frozenset({"msgspec"})


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickle one value by the rules of one side.

    Parameters
    ----------
    file : io.BytesIO
        Where the stream goes.
    rules : Rules
        What travels by value.
    root : type, optional
        A class whose own definition this stream is: its methods are written out instead of being
        named.
    names : frozenset, optional
        Names whose own values this stream is, likewise.
    """

    memo: dict[int, tuple[int, Any]]

    def __init__(
        self,
        file: io.BytesIO,
        rules: Rules,
        root: type | None = None,
        names: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self.buffers: list[pickle.PickleBuffer] = []
        # Not a method of ours: the pickler, and what it has seen, would be garbage for a collection to find.
        callback = functools.partial(_take_buffer, self.buffers)
        pickle.Pickler.__init__(self, file, 5, buffer_callback=callback)
        self.rules = rules
        self.root = root
        self.names = names
        self.needs = Needs()
        self.handing = _inherit.handing()
        self._refs: dict[int, tuple[Any, Call]] = {}
        self.cells: dict[int, types.CellType] = {}
        # By ``id``: what is a part though its type says no, and what is none though it says yes.
        self._functions: set[int] = set()
        self._attributes: set[int] = set()
        self._outlined: dict[int, Reduced] = {}
        self._constants: dict[type, dict[int, tuple[str, Any]]] = {}

    def refer(self, known: dict[int, tuple[Any, Reduced]]) -> None:
        """Write, in a pickle of their own, calls that give objects which the peer has."""
        calls = {key: Call(*call) for key, (_, call) in known.items()}
        self.dump(tuple(calls.values()))
        memo = self.memo.copy()
        for key, (obj, _) in known.items():
            if type(obj) is types.CellType:
                self._refs[key] = (obj, calls[key])
                self.cells[key] = obj
            else:
                memo[key] = (memo.pop(id(calls[key]))[0], obj)
        self.memo = memo
        self._functions.update(known)

    def outline(self, cls: type, functions: Functions) -> bytes:
        """Write what makes a class's functions beforehand, but for those whose cells others have made."""
        uid = _rebuild.uid_of(cls)
        origin, attributes = functions
        names: dict[int, tuple[types.FunctionType, list[str]]] = {}
        for name, fn in attributes.items():
            if self._is_outlined(fn):
                names.setdefault(id(fn), (fn, []))[1].append(name)
        outlines: list[tuple[int, list[str], types.CodeType, Call, list[int]]] = []
        cells: dict[int, int] = {}
        for fn, own in names.values():
            if (base := _base_with(cls, fn, own)) is not None:
                self._outlined[id(fn)] = (_skeleton.held, base)
                continue
            number = serial(fn)
            self._outlined[id(fn)] = (_rebuild.outlined, (uid, number))
            closure = fn.__closure__ or ()
            for position, cell in enumerate(closure):
                self._shared(cell, (_rebuild.cell, (uid, number, position)))
            numbers = [cells.setdefault(id(cell), len(cells)) for cell in closure]
            space = self._space(self.rules.namespace(fn))
            outlines.append((number, own, fn.__code__, space, numbers))
        return dump((origin, outlines), self.rules).payload

    def _is_outlined(self, fn: types.FunctionType) -> bool:
        if id(fn) in self._functions:  # the peer has it
            return False
        if fn.__globals__ is _OWN or not self.rules.needs_by_value(fn):
            return False
        space = self.rules.namespace(fn)
        if space.is_private or any(id(cell) in self.cells for cell in fn.__closure__ or ()):
            return False
        return self._by_name(space, fn) is None

    def parts(self) -> dict[int, tuple[int, Any]]:
        """Return what `Stream.parts` says."""
        memo = self.memo.copy()
        entries = sorted(memo.values(), key=operator.itemgetter(0))
        # The peer's objects have dicts of their own.
        dicts = [_dict_of(obj) for _, obj in entries if type(obj).__dictoffset__]
        left_out = set(map(id, dicts)).union(self._attributes)
        parts = {
            id(obj): (place, obj)
            for place, obj in entries
            if id(obj) in self._functions
            or not (type(obj) is Call or id(obj) in left_out or is_immutable(obj))
        }
        for key, cell in self.cells.items():
            found = memo.get(id(self._refs[key][1]))
            if found is not None:  # an empty one of an outlined function is only there
                parts[key] = (found[0], cell)
        return parts

    def reducer_override(self, obj: Any) -> Any:
        """Reduce what needs to know the rules; the dispatch table has the rest."""
        kind = type(obj)
        if kind is types.FunctionType:
            return self._reduce_function(obj)
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if kind is types.ModuleType:
            return self._reduce_module(obj)
        if kind is _LRU:
            return self._reduce_lru(obj)
        return self._reduce_other(obj, kind)

    # Functions

    def _reduce_function(self, fn: types.FunctionType) -> Any:
        if fn.__globals__ is _OWN or not self.rules.needs_by_value(fn):
            return NotImplemented
        space = self.rules.namespace(fn)
        if (reference := self._by_name(space, fn)) is not None:
            return reference
        outlined = self._outlined.get(id(fn), ())
        if outlined and outlined[0] is _skeleton.held:
            base, name = outlined[1]
            self.needs.places.append((vars(base), name, fn))
            return outlined
        self._functions.add(id(fn))
        state = self._function_state(fn, space)
        if outlined:
            return (*outlined, state, None, None, _rebuild.fill_outlined)
        made = (self._space(space), fn.__code__, self._empty_cells(fn))
        return (_rebuild.function, made, state, None, None, _rebuild.fill_function)

    def _by_name(self, space: Namespace, fn: Any) -> Reduced | None:
        """Refer to a function that its module, or a class of it, holds under its name."""
        path = getattr(fn, "__qualname__", "")
        owner, _, name = path.rpartition(".")
        if not owner:
            key = (space.label, name)
            if space.variables.get(name, ABSENT) is not fn or key in self.names:
                return None
            if space.travels:
                self.needs.names[key] = (space, False)
                self.needs.references.add(key)
                self.needs.places.append((space.variables, name, fn))
            elif key not in _rebuild.held:
                return None
            return (_rebuild.named, key)
        cls: Any = space.variables.get(owner)
        root = self.root
        if not isinstance(cls, type) or cls is root or vars(cls).get(name) is not fn:
            return None
        if root is not None and _is_twin(root, cls) and vars(root).get(name) is fn:
            return None
        self.needs.places.append((vars(cls), name, fn))
        return (getattr, (cls, name))

    def _space(self, space: Namespace) -> Call:
        self.needs.is_anonymous |= space.is_anonymous
        if id(space.variables) not in self._refs:
            self._attributes.add(id(space.attributes))
        call: Reduced = (_rebuild.home, (space.label,))
        if space.travels:
            call = (_rebuild.namespace, (space.label, space.attributes))
        elif space.is_private:
            call = (dict, (space.attributes,))
        return self._shared(space.variables, call)

    def _shared(self, key: object, call: Reduced) -> Call:
        return self._refs.setdefault(id(key), (key, Call(*call)))[1]

    def _empty_cells(self, fn: types.FunctionType) -> tuple[Call, ...] | None:
        cells = fn.__closure__
        if cells is None:
            return None
        return tuple(self._shared(cell, (types.CellType, ())) for cell in cells)

    def _function_state(self, fn: types.FunctionType, space: Namespace) -> Reduced:
        code = fn.__code__
        slots = {
            "__defaults__": fn.__defaults__,
            "__kwdefaults__": fn.__kwdefaults__,
            "__annotations__": annotations_of(fn),
            "__type_params__": getattr(fn, "__type_params__", None),
        }
        slots = {name: large(value) for name, value in slots.items() if value}
        if fn.__name__ != code.co_name:
            slots["__name__"] = fn.__name__
        if fn.__qualname__ != code.co_qualname:
            slots["__qualname__"] = fn.__qualname__
        if fn.__module__ != space.variables.get("__name__"):
            slots["__module__"] = fn.__module__
        first = code.co_consts[0] if code.co_consts else None
        if fn.__doc__ is not (first if isinstance(first, str) else None):
            slots["__doc__"] = fn.__doc__
        filled: list[tuple[Call, Any]] = []
        values: list[Any] = []
        for cell in fn.__closure__ or ():
            value = contents(cell)
            values.append(value)
            if value is not ABSENT and id(cell) not in self.cells:
                filled.append((self._shared(cell, (types.CellType, ())), large(value)))
            self.cells[id(cell)] = cell
        self.needs.subclasses |= asks_for_subclasses(code)
        inside = _inside(space, code)
        values += inside.values() if inside else self._need_globals(space, code)
        return (
            tuple(slots.items()),
            fn.__dict__,
            tuple(filled),
            tuple((name, large(value)) for name, value in inside.items()),
            _submodules(code, values),
        )

    def _need_globals(self, space: Namespace, code: types.CodeType) -> list[Any]:
        """Have the peer told of the globals that a function uses, if they travel; give their values."""
        values: list[Any] = []
        for name in global_names(code)[0] if space.travels else ():
            value = space.variables.get(name, ABSENT)
            # One that is not there may have been, or may come: see `Sender.bundle`.
            names = self.needs.names if space.sends(name, value) else self.needs.inherited
            names[space.label, name] = (space, False)
            if value is not ABSENT:
                values.append(value)
        return values

    def _reduce_lru(self, wrapper: Any) -> Any:
        fn = wrapper.__wrapped__
        if type(fn) is not types.FunctionType:
            return self._reduce_other(wrapper, _LRU)
        if not self.rules.needs_by_value(wrapper):
            return NotImplemented
        space = self.rules.namespace(fn)
        if (reference := self._by_name(space, wrapper)) is not None:
            return reference
        return (_remake.lru_cache, (fn, wrapper.cache_parameters(), _own_attributes(wrapper)))

    # Everything else

    def _reduce_other(self, obj: Any, kind: Any) -> Any:
        reduce = self.dispatch_table.get(kind)
        if reduce is None and self.handing is not None:
            reduce = self.handing.reducer(obj, kind)
        if reduce is not None:
            reduced = reduce(obj)
        elif kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__:
            return self._reduce_plain(obj, kind)
        else:
            reduced = obj.__reduce_ex__(5)
        return self._reduce_global(obj, reduced) if isinstance(reduced, str) else reduced

    def _reduce_plain(self, obj: Any, kind: type) -> Any:
        """Refer to a sentinel, which is compared by identity; leave the rest to pickle."""
        known = self._constants.get(kind)
        if known is None:
            known = self._constants[kind] = _named.constants(kind, self.rules)
        if id(obj) not in known or not _named.is_stateless(obj):
            return NotImplemented
        return (_remake.constant, (kind, known[id(obj)][0]))

    def _reduce_global(self, obj: Any, path: str) -> Any:
        """Refer to what pickles as the name of a global; define it if the peer cannot find it so."""
        label = pickle.whichmodule(obj, path)  # type: ignore[attr-defined]
        owner, _, name = path.rpartition(".")
        module = sys.modules.get(label)
        if module is not None and find(module, path) is obj:
            space = self.rules.module_namespace(module, label)
            top = path.partition(".")[0]
            if not space.sends(top, space.variables.get(top, ABSENT)):
                return path
            if not owner and (space.label, path) not in self.names:
                self.needs.names[space.label, path] = (space, False)
                return (_rebuild.named, (space.label, path))
            if owner and (holder := find(module, owner)) is not self.root:
                return (getattr, (holder, name))
        return _named.definition(obj, label, self._shared)

    # Classes and modules

    def _reduce_class(self, cls: type) -> Any:
        if not self.rules.needs_by_value(cls):
            return NotImplemented
        if (made := c_type(cls) or subscripted(cls)) is not None:
            return made
        if not cls.__flags__ & HEAP_TYPE:
            return internals._class_reduce(cls) if cls in _UNNAMED else NotImplemented
        kind: Any = type(cls)
        if any(made.__module__.partition(".")[0] in _CLOSED for made in kind.__mro__):
            raise TypeError(
                f"cannot pickle {cls.__name__!r}: only a class statement can make such a class"
            )
        uid = _rebuild.uid_of(cls)
        if not (self.rules.returning and uid in _rebuild.kept):
            self.needs.units[uid] = cls
        return (_rebuild.unit, (uid,))

    def _reduce_module(self, module: types.ModuleType) -> Any:
        name = module.__name__
        if not self.rules.module_travels(module, name):
            return (_rebuild.imported, (name,))
        if self.rules.returning:
            return (_rebuild.imported, (name,))
        space = Namespace("__main__" if name == "__mp_main__" else name, vars(module), True)
        self.needs.modules[space.label] = space
        for key in list(vars(module)):
            if not key.startswith("__"):
                self.needs.names.setdefault((space.label, key), (space, True))
        return (_rebuild.module, (space.label, space.attributes))


def by_name(fn: Any, rules: Rules) -> tuple[Namespace, str] | None:
    """Return where a by-value function lives, if its module holds it under its name."""
    inner = fn.__wrapped__ if type(fn) is _LRU else fn
    if type(inner) is not types.FunctionType or not rules.needs_by_value(fn):
        return None
    space = rules.namespace(inner)
    name = fn.__qualname__
    return (space, name) if space.travels and space.variables.get(name) is fn else None


def dump(
    value: Any,
    rules: Rules,
    root: type | None = None,
    names: frozenset[tuple[str, str]] = frozenset(),
    list_parts: bool = False,
    known: dict[int, tuple[Any, Reduced]] | None = None,
    functions: Functions | None = None,
) -> Stream:
    """Pickle a value; what it needs besides is in the result.

    Parameters
    ----------
    value : object
        What to pickle.
    rules : Rules
        What travels by value.
    root, names : optional
        See `Pickler`.
    list_parts : bool, optional
        Whether the result lists its parts.
    known : dict, optional
        Objects that the peer has, by ``id``, and calls that give them.
    functions : tuple, optional
        Of the class that is the root: what `Stream.outlines` is made of.
    """
    merge_dispatch_table()
    with io.BytesIO() as file:
        pickler = Pickler(file, rules, root, names)
        if known:
            pickler.refer(known)
        outlines = pickler.outline(root, functions) if root and functions else b""
        pickler.dump(large(value))
        parts = pickler.parts() if list_parts else {}
        return Stream(file.getvalue(), pickler.buffers, pickler.needs, parts, outlines)


def _take_buffer(buffers: list[pickle.PickleBuffer], buffer: pickle.PickleBuffer) -> bool:
    """Keep a large contiguous buffer; True leaves it inside of the stream."""
    try:
        with buffer.raw() as view:
            inside = view.nbytes < LARGE_BYTES
    except BufferError:
        return True
    if not inside:
        buffers.append(buffer)
    return inside


def large(value: Any) -> Any:
    """Send large bytes out of band; the peer copies them once."""
    kind = type(value)
    if (kind is bytes or kind is bytearray) and is_large(value):
        return Call(kind, (pickle.PickleBuffer(value),))
    return value


def _dict_of(obj: Any) -> Any:
    """Return the dict of an object that is no class."""
    if issubclass(type(obj), type):
        return None
    try:
        return object.__getattribute__(obj, "__dict__")
    except Exception:  # a property of that name may raise anything
        return None


def _base_with(cls: type, fn: types.FunctionType, names: list[str]) -> tuple[type, str] | None:
    """Return the base that has a function, too, under the same name; it may be written there."""
    if fn.__qualname__ in [f"{cls.__qualname__}.{name}" for name in names]:
        return None
    for base in reversed(cls.__mro__[1:]):
        for name in names:
            if vars(base).get(name) is fn:
                return (base, name)
    return None


def _own_attributes(wrapper: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(wrapper).items() if name != "__wrapped__"}


def _is_twin(root: type, cls: type) -> bool:
    """Say whether a class is another one's earlier self: ``dataclass(slots=True)`` makes a second one.

    They have their methods in common, and these may refer to the first by ``__class__``: either
    class is to be filled without the other.
    """
    return root.__qualname__ == cls.__qualname__


def _inside(space: Namespace, code: types.CodeType) -> dict[str, Any]:
    """Return the globals which a function takes along, because the peer has no place to keep them.

    Of a module that the peer imports these are what pytest adds, here alone, for ``assert``.
    """
    if space.travels:
        return {}
    return {
        name: space.variables[name]
        for name in global_names(code)[0]
        if name in space.variables and (space.is_private or name.startswith("@"))
    }


def _submodules(code: types.CodeType, values: list[Any]) -> tuple[str, ...]:
    """Name the loaded submodules a function reaches through their packages."""
    found: list[str] = []
    for value in values:
        if type(value) is types.ModuleType and "__path__" in vars(value):
            prefix = value.__name__ + "."
            every = global_names(code)[1]
            found += [
                name
                for name in list(sys.modules)
                if name.startswith(prefix)
                and all(part in every for part in name[len(prefix) :].split("."))
            ]
    return tuple(found)


# The dispatch table

_seen_table: dict[Any, Any] | None = None


def merge_dispatch_table() -> None:
    """Give `Pickler` copyreg's table, cloudpickle's and ours as one plain dict.

    cloudpickle's `ChainMap` runs Python code, and raises, for every instance.
    """
    global _seen_table
    if _seen_table != copyreg.dispatch_table:
        _seen_table = dict(copyreg.dispatch_table)
        Pickler.dispatch_table = {
            **_seen_table,
            **cloudpickle.Pickler._dispatch_table,
            **_OURS,
        }


def _reduce_code(code: types.CodeType) -> Any:
    try:
        # Version 2 writes no back references: equal code gives equal bytes.
        return (marshal.loads, (marshal.dumps(code, 2),))
    except ValueError:
        return internals._code_reduce(code)


def _reduce_method(method: types.MethodType) -> Reduced:
    try:
        name = method.__func__.__name__
        found = getattr(method.__self__, name)
    except Exception:  # an object's own `__getattr__` may raise anything
        found = None
    if type(found) is types.MethodType and found == method:
        return (getattr, (method.__self__, name))
    return (types.MethodType, (method.__func__, method.__self__))


def _reduce_cached_property(prop: functools.cached_property[Any]) -> Reduced:
    return (_remake.cached_property, (type(prop), prop.func, prop.attrname))


def _reduce_weak_dictionary(mapping: Any) -> Reduced:
    return (type(mapping), (dict(mapping),))


def _reduce_text_file(file: io.TextIOWrapper) -> Reduced:
    """Refuse an open file: cloudpickle would silently send a copy of its content."""
    for name in ("stdin", "stdout", "stderr"):
        if file is getattr(sys, name):
            return (getattr, (sys, name))
    raise TypeError(f"cannot pickle {type(file).__name__!r} object")


_OURS: dict[type, Any] = {
    io.TextIOWrapper: _reduce_text_file,
    types.CodeType: _reduce_code,
    types.MethodType: _reduce_method,
    functools.cached_property: _reduce_cached_property,
    weakref.WeakKeyDictionary: _reduce_weak_dictionary,
    weakref.WeakValueDictionary: _reduce_weak_dictionary,
}
