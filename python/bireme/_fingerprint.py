"""Notice, cheaply, that what a by-value function depends on has changed.

A `Watch` walks once over a function and everything that travels with it, and
writes down what it saw: code objects, defaults, captured values and the values
of global names. Asking again later compares those by identity (atoms also by
value), which takes well under a microsecond for an ordinary function.

What can change in place without a new identity (dict, list, set, instances) is
beyond that: the watch is then *mutable* and its owner pickles again to see.
Large buffers count as unchanged while they are the same object; `refresh` says
otherwise.
"""

from __future__ import annotations

import enum
import functools
import opcode
import re
import sys
import types
import weakref
from typing import TYPE_CHECKING, Any, Final

from bireme._rebuild import ABSENT
from bireme._rules import MAIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bireme._rules import Rules

#: Buffers of at least this many bytes travel out of band and are compared by
#: identity; below it a copy inside of the stream costs less than a transfer of its own.
LARGE_BYTES: Final = 64 * 1024

_ATOMS: Final = frozenset(
    {type(None), bool, int, float, complex, str, type(...), type(NotImplemented), range}
)
_BY_EQUALITY: Final = frozenset({int, str, float})
_LRU: Final = type(functools.lru_cache(len))
_IMMUTABLE: Final = (
    enum.Enum,
    re.Pattern,
    types.BuiltinFunctionType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    types.CodeType,
    types.GenericAlias,
    types.FunctionType,
    types.ModuleType,
    type,
    str,
    bytes,
    tuple,
    frozenset,
)
#: Matched by name, so that nothing is imported for them.
_IMMUTABLE_NAMES: Final = frozenset(
    {
        "logging.Logger", "logging.RootLogger", "numpy.ufunc", "numpy.dtype",
        "datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta",
        "datetime.timezone", "decimal.Decimal", "fractions.Fraction", "uuid.UUID",
        "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib._local.PosixPath",
        "operator.itemgetter", "operator.attrgetter", "operator.methodcaller",
        "typing.TypeVar", "typing.ParamSpec", "typing.TypeVarTuple", "typing.TypeAliasType",
        "typing.NewType", "typing._GenericAlias", "typing._UnionGenericAlias",
        "_abc._abc_data", "_ctypes.CField", "numpy._ArrayFunctionDispatcher", "_collections._tuplegetter", "collections._tuplegetter",
    }
)  # fmt: skip


#: What `EnumType` gives the members of an enum.
_MEMBER: Final = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_"})
#: What `namedtuple` keeps in its classes, and ctypes: it looks once.
_FIXED: Final = frozenset({"_fields", "_field_defaults", "_fields_"})


class _Weakly(weakref.ref[Any]):
    """A weak reference of ours: a value that is seen may be one, too."""

    __slots__ = ()


class _Count:
    """Has the number of names in a mapping under any name: what is watched is watched alike."""

    __slots__ = ("mapping",)

    def __init__(self, mapping: Mapping[str, Any]) -> None:
        self.mapping = mapping

    def get(self, _name: str, _default: object) -> int:
        """Return how many there are now."""
        return len(self.mapping)


_epoch = 0
_stamps: dict[int, tuple[Any, int]] = {}


def touch(buffers: list[Any]) -> None:
    """Forget that these objects were seen; every watch must look again once."""
    global _epoch
    _epoch += 1
    for obj in buffers:
        try:
            held: Any = weakref.ref(obj)
        except TypeError:
            held = obj
        _stamps[id(obj)] = (held, stamp(obj) + 1)
    for key, (held, _) in list(_stamps.items()):
        if isinstance(held, weakref.ref) and held() is None:
            del _stamps[key]


def stamp(obj: Any) -> int:
    """Say how often an object was given to `touch`."""
    held, count = _stamps.get(id(obj), (None, 0))
    if isinstance(held, weakref.ref):
        held = held()
    return count if held is obj else 0


class Watch:
    """What a value looked like, and whether it still does.

    Parameters
    ----------
    root : object
        The value to watch.
    rules : Rules
        Says what travels by value: only that is followed.
    follow : bool
        Whether the values of global names belong to it.

    Attributes
    ----------
    mutable : bool
        Whether something in it may change unnoticed by `unchanged`.
    """

    __slots__ = (
        "_cells",
        "_epoch",
        "_follow",
        "_functions",
        "_items",
        "_rules",
        "_seen",
        "mutable",
    )

    def __init__(self, root: Any, rules: Rules, follow: bool) -> None:
        self.mutable = False
        self._epoch = _epoch
        self._follow = follow
        self._rules = rules
        # Held weakly: a watch must not keep what its owner has dropped.
        self._functions: list[tuple[weakref.ref[types.FunctionType], Any, Any]] = []
        self._items: list[tuple[Mapping[str, Any] | _Count, str, Any]] = []
        self._cells: list[tuple[weakref.ref[types.FunctionType], int, Any]] = []
        self._seen: dict[int, Any] = {}
        self._visit(root)
        self._seen = {}

    def unchanged(self) -> bool:
        """Say whether nothing that was seen has been replaced."""
        if self._epoch != _epoch:
            return False
        for held, code, defaults in self._functions:
            fn = held()
            if fn is not None and (fn.__code__ is not code or fn.__defaults__ is not defaults):
                return False
        for mapping, name, value in self._items:
            now = mapping.get(name, ABSENT)
            if now is not value and not _equal(now, value):
                return False
        for held, index, value in self._cells:
            fn = held()
            if fn is None:
                continue
            now = contents(fn.__closure__[index])  # type: ignore[index]
            if type(value) is _Weakly:
                value = value()
            if now is not value and not _equal(now, value):
                return False
        return True

    def _visit(self, value: Any) -> None:
        kind = type(value)
        if kind in _ATOMS or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if kind is types.FunctionType:
            if self._rules.needs_by_value(value):
                self._visit_function(value)
            else:
                self._visit_named(value)
        elif issubclass(kind, type):
            if not self._rules.needs_by_value(value):
                self._visit_named(value)
            elif value.__flags__ & (1 << 9):
                self._visit_class(value)
        elif kind is types.ModuleType:
            if self._rules.module_travels(value, value.__name__):
                self.mutable = True
        elif kind is types.MemberDescriptorType:
            pass
        elif issubclass(kind, enum.Enum):
            self._visit(kind)
        elif (parts := _parts(value)) is not None:
            for part in parts:
                self._visit(part)
        elif not is_immutable(value) and not is_large(value):
            self.mutable = True

    def _visit_named(self, value: Any) -> None:
        """Note that a fork finds it in ``__main__``, if it does: until the name is bound anew."""
        inherited = self._rules.inherited
        if inherited is not None and value.__module__ in MAIN:
            name = value.__qualname__.partition(".")[0]
            self._items.append((inherited.variables, name, inherited.variables.get(name, ABSENT)))

    def _visit_function(self, fn: types.FunctionType, special: bool = False) -> None:
        held = weakref.ref(fn)
        self._functions.append((held, fn.__code__, fn.__defaults__))
        self._visit(fn.__defaults__)
        for mapping in (fn.__kwdefaults__ or {}, fn.__dict__):
            for name, value in mapping.items():
                self._item(mapping, name, value)
        for index, cell in enumerate(fn.__closure__ or ()):
            value = contents(cell)
            # It may be the function itself.
            kept = _Weakly(value) if type(value) is types.FunctionType else value
            self._cells.append((held, index, kept))
            # What the standard library's decorators keep in special methods (a
            # dataclass's `__repr__` has a set) is scratch space, not input.
            if value is not ABSENT and not special:
                self._visit(value)
        if self._follow and (space := self._rules.namespace(fn)).travels:
            for name in global_names(fn.__code__)[0]:
                value = fn.__globals__.get(name, ABSENT)
                if space.sends(name, value):
                    self._item(fn.__globals__, name, value)
                else:
                    self._items.append((fn.__globals__, name, value))

    def _visit_class(self, cls: Any) -> None:
        for base in (*cls.__bases__, type(cls)):
            self._visit(base)
        fixed = issubclass(cls, enum.Enum)
        for name, value in list(vars(cls).items()):
            special = fixed or (name.startswith("__") and name.endswith("__")) or name in _FIXED
            if special and not isinstance(
                value, (types.FunctionType, classmethod, staticmethod, property)
            ):
                continue
            if special and type(value) is types.FunctionType:
                self._items.append((vars(cls), name, value))
                self._visit_function(value, special=True)
            else:
                self._item(vars(cls), name, value)
        self._count(vars(cls))
        for member in cls.__members__.values() if fixed else ():
            self._count(vars(member))
            for name, value in member_attributes(member).items():
                self._item(vars(member), name, value)

    def _count(self, mapping: Mapping[str, Any]) -> None:
        """Watch for new names."""
        self._items.append((_Count(mapping), "", len(mapping)))

    def _item(self, mapping: Mapping[str, Any], name: str, value: Any) -> None:
        self._items.append((mapping, name, value))
        if value is not ABSENT:
            self._visit(value)


def _parts(value: Any) -> tuple[Any, ...] | None:
    """Return what an immutable holder of other values holds, None for the rest."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return tuple(value)
    if issubclass(kind, tuple):
        return (kind, *tuple.__iter__(value))
    if kind is types.MethodType:
        return (value.__func__, value.__self__)
    if kind is functools.partial:
        return (value.func, value.args, *value.keywords.values(), *value.__dict__.values())
    if kind is _LRU:
        return (value.__wrapped__,)
    if kind is staticmethod or kind is classmethod:
        return (value.__func__,)
    if kind is property:
        return (value.fget, value.fset, value.fdel)
    if kind is functools.cached_property:
        return (value.func,)
    if kind is bytes:
        return ()
    if kind is types.BuiltinFunctionType and not isinstance(
        value.__self__, (types.ModuleType, type, type(None))
    ):
        return (value.__self__,)
    return None


def member_attributes(member: enum.Enum) -> dict[str, Any]:
    """Return the attributes of an enum's member that its class has given it."""
    return {name: value for name, value in vars(member).items() if name not in _MEMBER}


def is_c_field(value: Any) -> bool:
    """Say whether a class attribute is what ctypes makes for a field of a structure."""
    kind = type(value)
    return kind.__name__ == "CField" and kind.__module__ == "_ctypes"


def is_immutable(value: Any) -> bool:
    """Say whether a value itself (not what it refers to) cannot change in place."""
    kind = type(value)  # what `__class__` says may be anything, or run code
    if issubclass(kind, _IMMUTABLE):
        return True
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, (numpy.generic, numpy.dtype)):
        return not issubclass(kind, numpy.void)
    return f"{kind.__module__}.{kind.__qualname__}" in _IMMUTABLE_NAMES


def is_large(value: Any) -> bool:
    """Say whether a value is one contiguous buffer that travels out of band."""
    try:
        with memoryview(value) as view:
            return view.nbytes >= LARGE_BYTES and view.contiguous and view.format != "O"
    except Exception:  # a class's own `__buffer__` may raise anything
        return False


def contents(cell: types.CellType) -> Any:
    """Return what a cell holds, `ABSENT` if it is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return ABSENT


def _equal(now: Any, value: Any) -> bool:
    # Falsy ones are left out: 0.0 == -0.0.
    return bool(type(now) is type(value) and type(now) in _BY_EQUALITY and now and now == value)


_LOAD_GLOBAL: Final = opcode.opmap["LOAD_GLOBAL"]
#: Opcodes whose argument is an index of a name that may be a global one
#: (``LOAD_NAME``: the body of a class inside of a function).
_NAME_OPS: Final = frozenset(
    opcode.opmap[name]
    for name in ("STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    if name in opcode.opmap
)
_names: dict[int, tuple[weakref.ref[types.CodeType], tuple[dict[str, None], frozenset[str]]]] = {}


def global_names(code: types.CodeType) -> tuple[dict[str, None], frozenset[str]]:
    """Return the global names a function uses (in order), and every name in its code."""
    key = id(code)
    known = _names.get(key)
    if known is not None and known[0]() is code:
        return known[1]
    found: dict[str, None] = {}
    every: set[str] = set()
    for inner in _code_objects(code):
        every.update(inner.co_names)
        argument = 0
        raw = inner.co_code
        for position in range(0, len(raw), 2):
            operation = raw[position]
            argument = argument << 8 | raw[position + 1]
            if operation == _LOAD_GLOBAL:
                found[inner.co_names[argument >> 1]] = None
            elif operation in _NAME_OPS:
                found[inner.co_names[argument]] = None
            if operation != opcode.EXTENDED_ARG:
                argument = 0
    reference = weakref.ref(code, lambda _: _names.pop(key, None))
    _names[key] = (reference, (found, frozenset(every)))
    return _names[key][1]


def _code_objects(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code_objects(constant)
