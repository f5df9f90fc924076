"""Notice, cheaply, that what a by-value function depends on has changed.

A `Watch` walks once over a function and everything that travels with it, and
writes down what it saw: code objects, defaults, captured values, the values of
global names, and the whole content of the dicts in which functions, classes and
enum members keep their attributes, so that new ones and deleted ones count, too.
Asking again later compares those by identity (atoms also by value), which takes
well under a microsecond for an ordinary function.

Whatever else is not known to be immutable, by its exact type, may change in place
without a new identity (dict, list, set, instances), and so may the subclasses of a
class, if code asks for them: the watch is then *mutable* and its owner pickles again to see. Large buffers count as unchanged while they
are the same object; `refresh` says otherwise.
"""

from __future__ import annotations

import enum
import functools
import opcode
import re
import sys
import types
import weakref
from abc import get_cache_token
from gc import get_referents
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from bireme._rebuild import ABSENT
from bireme._rules import MAIN, RUN_PATH, is_of_module
from bireme._weak import Weak

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from bireme._rules import Rules

#: Buffers of at least this many bytes travel out of band and are compared by
#: identity; below it a copy inside of the stream costs less than a transfer of its own.
LARGE_BYTES: Final = 64 * 1024

_ATOMS: Final = frozenset(
    {type(None), bool, int, float, complex, str, type(...), type(NotImplemented), range}
)
_BY_EQUALITY: Final = frozenset({int, str, float})
_LRU: Final = type(functools.lru_cache(len))
#: Instances of types that compare so are equal only to themselves.
_IDENTITY: Final[Any] = object.__eq__
#: Their subclasses may have attributes.
_PLAIN: Final = (str, bytes, tuple, frozenset)
_IMMUTABLE: Final = _ATOMS.union(
    _PLAIN,
    {
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
        types.UnionType,
        types.FunctionType,
    },
)
#: What these have travels with a class or module, or not at all.
_BY_NAME: Final = (enum.Enum, types.ModuleType, type)
#: Matched by name, so that nothing is imported for them.
_IMMUTABLE_NAMES: Final = frozenset(
    {
        "logging.Logger", "logging.RootLogger", "numpy.ufunc", "numpy.dtype",
        "datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta",
        "datetime.timezone", "decimal.Decimal", "fractions.Fraction", "uuid.UUID",
        "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib._local.PosixPath",
        "operator.itemgetter", "operator.attrgetter", "operator.methodcaller",
        "_abc._abc_data", "_ctypes.CField", "numpy._ArrayFunctionDispatcher",
        "_collections._tuplegetter", "collections._tuplegetter",
    }
)  # fmt: skip


#: What `EnumType` gives the members of an enum.
_MEMBER: Final = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_"})
#: What `namedtuple` keeps in its classes, and ctypes: it looks once.
_FIXED: Final = frozenset({"_fields", "_field_defaults", "_fields_"})
#: The flag of classes made by Python code, and of some made in C.
HEAP_TYPE: Final = 1 << 9


#: What a function consists of: `get_referents` gives it, too, but also what may keep the function.
_state: Final = attrgetter(
    "__code__", "__defaults__", "__kwdefaults__", "__dict__", "__doc__", "__name__", "__qualname__",
    "__module__", "__annotations__" if sys.version_info < (3, 14) else "__annotate__",
)  # fmt: skip

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


def _is_dunder(name: str) -> bool:
    """Say whether an attribute's name is one of Python's own."""
    return name.startswith("__") and name.endswith("__")


def _is_sunder(name: str) -> bool:
    """Say whether it is Python's own or `enum`'s."""
    return name.startswith("_") and name.endswith("_")


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
        "_closures",
        "_contents",
        "_epoch",
        "_follow",
        "_functions",
        "_is_short",
        "_is_strict",
        "_items",
        "_mappings",
        "_referents",
        "_registered",
        "_replaceable",
        "_root",
        "_rules",
        "_seen",
        "_todo",
        "mutable",
    )

    def __init__(self, root: Any, rules: Rules, follow: bool) -> None:
        self.mutable = False
        self._epoch = _epoch
        self._follow = follow
        self._rules = rules
        # A watch must not keep the root: it, and what may refer to it, is held weakly.
        self._root: Callable[[], Any] = _nothing
        self._functions: list[types.FunctionType] = []
        self._referents: list[Any] = []
        self._closures: list[tuple[weakref.ref[types.FunctionType], list[Any]]] = []
        # Attributes for which equal is not the same.
        self._replaceable: list[tuple[weakref.ref[Any], str, Any]] = []
        # What `ABCMeta.register` moves on, if there is a class that has it.
        self._registered: object = None
        # Dicts, and copies of them: values for which equal is not the same are items, too.
        self._mappings: list[Mapping[str, Any]] = []
        self._contents: list[dict[str, Any]] = []
        self._items: list[tuple[Mapping[str, Any], str, Any]] = []
        # The number of a cell, or a name in globals that live by their functions.
        self._cells: list[tuple[weakref.ref[types.FunctionType], int | str, Any]] = []
        # The root's globals may live by their functions: nothing that keeps those is to be kept here.
        self._is_strict = follow and not (type(root) is types.FunctionType and _is_of_module(root))
        self._seen: dict[int, Any] = {}
        # Not a recursion: functions and classes may refer to each other in long chains.
        self._todo = [root]
        while self._todo:
            self._look_at(self._todo.pop())
        self._seen = {}
        if self._is_strict and self.mutable:
            self._let_go()
        # An ordinary function that uses no names.
        others = (
            self._functions, self._mappings, self._items, self._closures, self._cells,
        )  # fmt: skip
        self._is_short = not any(others)

    def unchanged(self) -> bool:
        """Say whether nothing that was seen has been replaced."""
        if self._epoch != _epoch:
            return False
        for held, name, value in self._replaceable:
            if (found := held()) is not None and getattr(found, name) is not value:
                return False
        try:
            if self._is_short:
                return get_referents(self._root()) == self._referents
            if get_referents(self._root(), *self._functions) != self._referents:
                return False
            if self._mappings != self._contents:
                return False
            for held, state in self._closures:
                if (fn := held()) is not None and [*_state(fn)] != state:
                    return False
        except Exception:  # what is there now is of a class whose `__eq__` raises
            return False
        if self._registered is not None and self._registered != get_cache_token():
            return False
        for mapping, name, value in self._items:
            now = mapping.get(name, ABSENT)
            if now is not value and not _equal(now, value):
                return False
        for held, place, value in self._cells:
            if (fn := held()) is not None and not _same(_captured(fn, place), value):
                return False
        return True

    def _visit(self, value: Any) -> None:
        """Have a value looked at later."""
        self._todo.append(value)

    def _look_at(self, kept: Any) -> None:
        value: Any = kept() if type(kept) is Weak else kept
        kind = type(value)
        if kind in _ATOMS:
            return
        if self._is_strict and self._seen and kept is value and self._may_keep(value):
            self.mutable = True
            return
        if id(value) in self._seen:
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
            elif value.__flags__ & HEAP_TYPE:
                self._visit_class(value)
        elif kind is types.ModuleType:
            if self._rules.module_travels(value, value.__name__):
                self.mutable = True
        elif issubclass(kind, enum.Enum):
            self._visit(kind)
        elif (parts := _parts(value)) is not None:
            for part in parts:
                self._visit(part)
            for mapping in _attributes(value):
                self._visit_mapping(mapping)
        elif is_large(value):
            self._visit(kind)
            if kind.__dictoffset__:
                self._visit_mapping(vars(value))
        elif not is_immutable(value):
            self.mutable = True

    def _may_keep(self, value: Any) -> bool:
        """Say whether something that is seen keeps globals that live by their functions."""
        if isinstance(value, type):
            return self._rules.needs_by_value(value) and not is_of_module(value)
        return type(value) is types.FunctionType and not _is_of_module(value)

    def _visit_named(self, value: Any) -> None:
        """Note that a fork finds it in ``__main__``, if it does: until the name is bound anew."""
        inherited = self._rules.inherited
        if inherited is not None and value.__module__ in MAIN:
            name = value.__qualname__.partition(".")[0]
            self._items.append((inherited.variables, name, inherited.variables.get(name, ABSENT)))

    def _visit_function(self, fn: types.FunctionType, special: bool = False) -> None:
        held = weakref.ref(fn)
        inputs = [fn.__kwdefaults__ or {}, fn.__dict__]
        dicts = [*inputs, annotations_of(fn) or {}]
        if fn.__closure__ is not None or not _is_of_module(fn):
            self._closures.append((held, _with_copies(_state(fn), dicts)))
        else:
            self._referents += _with_copies(get_referents(fn), dicts)
            if self._seen.keys() == {id(fn)}:  # it is the root
                self._root = held
            else:
                self._functions.append(fn)
        for name in ("__defaults__", "__kwdefaults__", "__dict__"):
            if value := getattr(fn, name):
                self._replaceable.append((held, name, value))
        self._visit(fn.__defaults__)
        for mapping in inputs:
            self._note_items(mapping)
        for mapping in dicts:
            for value in list(mapping.values()):
                self._visit(value)
        for index, cell in enumerate(fn.__closure__ or ()):
            value = contents(cell)
            kept = _kept(value)
            self._cells.append((held, index, kept))
            # What the standard library's decorators keep in special methods (a
            # dataclass's `__repr__` has a set) is scratch space, not input.
            if value is not ABSENT and not special:
                self._visit(kept)
        if self._follow and asks_for_subclasses(fn.__code__):
            self.mutable = True
        if self._follow and (space := self._rules.namespace(fn)).travels:
            for name in global_names(fn.__code__)[0]:
                value = fn.__globals__.get(name, ABSENT)
                if space.is_anonymous and self._is_strict:
                    kept = _kept(value)
                    self._cells.append((held, name, kept))
                    if value is not ABSENT:
                        self._visit(kept)
                elif space.sends(name, value):
                    self._item(fn.__globals__, name, value)
                else:
                    self._items.append((fn.__globals__, name, value))

    def _let_go(self) -> None:
        """Keep nothing: a mutable watch is not asked."""
        for seen in (
            self._functions, self._referents, self._closures, self._replaceable, self._mappings,
            self._contents, self._items, self._cells,
        ):  # fmt: skip
            seen.clear()

    def _visit_class(self, cls: type) -> None:
        self._replaceable.append((weakref.ref(cls), "__bases__", cls.__bases__))
        for base in (*cls.__bases__, type(cls)):
            self._visit(base)
        is_special = _is_sunder if issubclass(cls, enum.Enum) else _is_dunder
        attributes = self._note(vars(cls), is_special)
        if "_abc_impl" in attributes:
            self._registered = get_cache_token()
        for name, value in attributes.items():
            special = is_special(name) or name in _FIXED
            if special and type(value) is types.FunctionType:
                self._visit_function(value, special=True)
            elif name == "__annotations__" and type(value) is dict:
                self._visit_mapping(value)
            elif not special or isinstance(value, (classmethod, staticmethod, property)):
                self._visit(value)
        for member in members(cls):
            for value in self._note(vars(member), _is_sunder).values():
                self._visit(value)

    def _visit_mapping(self, mapping: Mapping[str, Any]) -> None:
        for value in self._note(mapping).values():
            self._visit(value)

    def _note(
        self, mapping: Mapping[str, Any], is_special: Callable[[str], bool] = _is_dunder
    ) -> dict[str, Any]:
        """Write down the whole content of a dict, special names less strictly; give it."""
        content = dict(mapping)
        self._mappings.append(mapping)
        self._contents.append(content)
        self._note_items(mapping, is_special)
        return content

    def _note_items(
        self, mapping: Mapping[str, Any], is_special: Callable[[str], bool] = _is_dunder
    ) -> None:
        """Write down those values for which another one may be equal."""
        self._items += [
            (mapping, name, value)
            for name, value in list(mapping.items())
            if type(value).__eq__ is not _IDENTITY and not is_special(name)
        ]

    def _item(self, mapping: Mapping[str, Any], name: str, value: Any) -> None:
        self._items.append((mapping, name, value))
        if value is not ABSENT:
            self._visit(value)


def _nothing() -> None:
    """Stand for a reference to nothing."""


def _with_copies(parts: Iterable[Any], dicts: list[dict[str, Any]]) -> list[Any]:
    """Copy those parts of a function that are dicts of its own: what matters is their content."""
    own = set(map(id, dicts))
    return [dict(part) if id(part) in own else part for part in parts]


def _is_of_module(fn: types.FunctionType) -> bool:
    """Say whether a function's globals live on without it."""
    name = fn.__globals__.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    return name != RUN_PATH and getattr(module, "__dict__", None) is fn.__globals__


def _parts(value: Any) -> tuple[Any, ...] | None:
    """Return what an immutable holder of other values holds, None for the rest."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return tuple(value)
    if kind is types.MethodType:
        return (value.__func__, value.__self__)
    if kind is functools.partial:
        return (value.func, value.args)
    if kind is _LRU:
        return ()
    if kind is staticmethod or kind is classmethod:
        return (value.__func__,)
    if kind is property or issubclass(kind, types.DynamicClassAttribute):
        return (value.fget, value.fset, value.fdel)
    if kind is functools.cached_property:
        return (value.func,)
    if kind is types.MethodWrapperType:
        return (value.__self__,)
    if kind.__module__ == "typing" or kind is types.GenericAlias or kind is types.UnionType:
        names = ("__origin__", "__supertype__", "__args__", "__metadata__")
        return tuple(getattr(value, name, None) for name in names)
    if is_bare(kind):
        held = tuple if issubclass(kind, tuple) else frozenset
        return (kind, *(held.__iter__(value) if issubclass(kind, held) else ()))
    if kind is types.BuiltinFunctionType and not isinstance(
        value.__self__, (types.ModuleType, type, type(None))
    ):
        return (value.__self__,)
    return None


def _attributes(value: Any) -> tuple[dict[str, Any], ...]:
    """Return the dicts of an immutable holder that can change."""
    kind = type(value)
    if kind is functools.partial:
        return (value.keywords, value.__dict__)
    return (value.__dict__,) if kind is _LRU else ()


def members(cls: type) -> list[Any]:
    """Return the members of an enum, none for other classes."""
    return list(cls._member_map_.values()) if issubclass(cls, enum.Enum) else []


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
    if kind in _IMMUTABLE or issubclass(kind, _BY_NAME) or is_bare(kind):
        return True
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, (numpy.generic, numpy.dtype)):
        return not issubclass(kind, numpy.void) and not kind.__dictoffset__
    return (
        kind.__module__ == "typing" or f"{kind.__module__}.{kind.__qualname__}" in _IMMUTABLE_NAMES
    )


def is_bare(kind: type) -> bool:
    """Say whether a class derives from an immutable one and adds no place for attributes."""
    for plain in _PLAIN:
        if issubclass(kind, plain):
            # Since 3.13 the system's records, as of `os.stat`, have room for fields beyond the tuple.
            bare = kind.__basicsize__ <= plain.__basicsize__ or "n_unnamed_fields" in vars(kind)
            return kind.__dictoffset__ == 0 and bare
    return False


def annotations_of(fn: types.FunctionType) -> dict[str, Any] | None:
    """Return a function's annotations, None if they cannot be had."""
    try:
        return fn.__annotations__
    except Exception:  # 3.14 evaluates them now: a name may exist for type checkers only
        return None


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


def _kept(value: Any) -> Any:
    """Hold what a function refers to: not if it may be the function itself."""
    return Weak(value) if type(value) is types.FunctionType else value


def _captured(fn: types.FunctionType, place: int | str) -> Any:
    """Return what a function refers to, by the number of a cell or the name of a global."""
    if isinstance(place, str):
        return fn.__globals__.get(place, ABSENT)
    return contents(fn.__closure__[place])  # type: ignore[index]


def _same(now: Any, kept: Any) -> bool:
    """Say whether a value is still what was held by `_kept`."""
    value = kept() if type(kept) is Weak else kept
    return now is value or _equal(now, value)


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


def asks_for_subclasses(code: types.CodeType) -> bool:
    """Say whether code looks for what is derived from a class: for plugins, as a rule."""
    return "__subclasses__" in global_names(code)[1]


def _code_objects(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code_objects(constant)
