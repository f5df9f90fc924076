"""What a by-value class is made of: a skeleton, which others may refer to, and what fills it.

A class is rebuilt as it is, not made anew. Of the code that runs where a class is written, the
peer runs what it has by itself (``ABCMeta``, ``EnumType``, a base of an importable module), on the
skeleton. What travels is not run: neither ``__init_subclass__`` nor a metaclass's ``__new__`` and
``__init__``, nor decorators, ``__set_name__``, an enum's ``__new__`` and ``__init__``. What they
left in the class, and in globals, travels itself. To run them again would need globals that may
hold the class, arguments that nobody has kept, and attributes that are still to come.
"""

from __future__ import annotations

import abc
import copyreg
import enum
import operator
import sys
import types
from typing import TYPE_CHECKING, Any

from cloudpickle import cloudpickle as internals

from bireme import _skeleton
from bireme._fingerprint import is_c_field, is_immutable, member_attributes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bireme._rules import Rules

Reduced = tuple[Any, ...]
#: What sets the attributes of a class, and those of them that are functions, which it has first.
Functions = tuple[type, dict[str, types.FunctionType]]


class Call:
    """Pickles as a call; one object in a stream, so that the stream shares its result."""

    __slots__ = ("call",)

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Reduced:
        return self.call


#: Values that are set first: others may call them, or read them, while they are unpickled.
_FIRST = (types.FunctionType, classmethod, staticmethod, property, Call, str, int, bool)
#: Set first, too: without the fields of a C structure there are no instances.
_FIELDS = "_fields_"
#: What a class has by itself, and what pickle, or a look at the annotations, leaves in it: no change of it.
_BY_ITSELF = frozenset(
    {"__dict__", "__weakref__", "__slotnames__", "__annotate_func__", "_abc_impl"}
)
_NEW_ARGUMENTS = frozenset({"__getnewargs__", "__getnewargs_ex__"})
#: What `EnumType` makes by itself, besides the members.
_ENUM = frozenset({"_member_names_", "_member_map_", "_member_type_", "_value2member_map_"})


def definition(cls: Any, rules: Rules) -> tuple[Reduced, list[Reduced], Functions]:
    """Take a class apart.

    Parameters
    ----------
    cls : type
        A by-value class.
    rules : Rules
        What travels by value.

    Returns
    -------
    skeleton : tuple
        What makes the class, its arguments, and the id by which cloudpickle knows it.
    state : list of tuple
        Calls that fill it, in this order.
    functions : tuple
        What `_stream.Stream.outlines` is made of.
    """
    attributes = _attributes(cls, rules)
    origin, bases = _origin(cls, rules)
    arguments = (origin, type(cls), cls.__name__, bases)
    last: list[Reduced] = []
    skeleton: Reduced
    if issubclass(cls, enum.Enum):
        skeleton = (_skeleton.enum_class, (*arguments, *_enum(cls)))
        last.append((_skeleton.fill_members, (cls, *_members(cls))))
        for name in (*_ENUM, *cls.__members__):
            attributes.pop(name, None)
    else:
        skeleton = (_skeleton.plain_class, (*arguments, _at_once(cls, attributes)))
    if cls in copyreg.dispatch_table:
        last.append((copyreg.pickle, (cls, copyreg.dispatch_table[cls])))
    first = {name: value for name, value in attributes.items() if _is_first(cls, name, value)}
    rest = {name: value for name, value in attributes.items() if name not in first}
    state = [(_skeleton.fill_class, (cls, origin, part)) for part in (first, rest)]
    functions = {name: value for name, value in first.items() if type(value) is types.FunctionType}
    skeleton = (*skeleton, internals._get_or_create_tracker_id(cls))
    return skeleton, [*state, *last], (origin, functions)


def update(cls: Any, sent: Iterable[str], moved: bool) -> list[Reduced]:
    """Give the calls that take from a class which the peer may have what is there no longer.

    Parameters
    ----------
    cls : type
        A by-value class.
    sent : iterable of str
        All attributes that it ever had when it was sent.
    moved : bool
        Whether it had other bases once.
    """
    gone = [name for name in sent if name not in vars(cls)]
    calls: list[Reduced] = []
    if moved:
        calls.append((_skeleton.set_bases, (cls, cls.__bases__)))
    if gone:
        calls.append((_skeleton.delete_attributes, (cls, gone)))
    return calls


def _attributes(cls: Any, rules: Rules) -> dict[str, Any]:
    """Return what a class holds itself, whatever its bases have; but not what it is born with."""
    attributes = {
        # Not the interned name, which a stream would share with equal names as chance will have it.
        "".join(name): _held_by_base(cls, name, value, rules)
        for name, value in sorted(vars(cls).items())
        if name not in _BY_ITSELF and not _is_slot(cls, name, value)
    }
    if not attributes.get("__annotations__", True):
        del attributes["__annotations__"]
    if issubclass(type(cls), abc.ABCMeta):
        registered = abc._get_dump(cls)[0]  # type: ignore[attr-defined]
        attributes["_abc_impl"] = [sub for held in registered if (sub := held()) is not None]
    return attributes


def _is_slot(cls: type, name: str, value: Any) -> bool:
    """Say whether an attribute is what ``__slots__`` made for one of its names."""
    if type(value) is not types.MemberDescriptorType:
        return False
    return value.__objclass__ is cls and value.__name__ == name


def _held_by_base(cls: type, name: str, value: Any, rules: Rules) -> Any:
    """Refer to what an importable base holds under the same name: the peer has that one itself."""
    if not is_immutable(value):
        for base in cls.__mro__[1:]:
            if vars(base).get(name) is value and not rules.needs_by_value(base):
                return Call(_skeleton.held, (base, name))
    return value


def _origin(cls: Any, rules: Rules) -> tuple[type, tuple[Any, ...]]:
    """Return what makes the skeleton: the metaclass or an ancestor, and what it is given as bases."""
    kind = type(cls)
    if kind.__name__ == "_TypedDictMeta":  # it refuses the bases that it has given the class
        return type, cls.__bases__
    origin = next(kind for kind in kind.__mro__ if c_type(kind) or not rules.needs_by_value(kind))
    return origin, internals._get_bases(cls)


def _is_first(cls: Any, name: str, value: Any) -> bool:
    """Say whether an attribute is set before others are unpickled, which may be the class's instances.

    A ``__new__`` only where they pickle arguments for it: one that keeps its instances, or the only
    one, looks among the others.
    """
    if name == "__new__":
        return not _NEW_ARGUMENTS.isdisjoint(vars(cls))
    return type(value) in _FIRST or name == _FIELDS


def _at_once(cls: Any, attributes: dict[str, Any]) -> dict[str, Any]:
    """Move what a class must have from its birth out of `attributes`."""
    kept: dict[str, Any] = {}
    if cls.__qualname__ != cls.__name__:
        kept["__qualname__"] = cls.__qualname__
    own = vars(cls)
    if "__module__" in own:
        kept["__module__"] = cls.__module__
    if isinstance(own.get("__dict__"), property):
        kept["__dict__"] = own["__dict__"]
    slots = own.get("__slots__")
    if slots is not None and not issubclass(cls, tuple):
        kept["__slots__"] = attributes.pop("__slots__", slots)
    if any(k.__module__ == "_ctypes" for k in type(cls).__mro__):
        _move_c_options(attributes, kept)
    return kept


def _move_c_options(attributes: dict[str, Any], kept: dict[str, Any]) -> None:
    """Move what ctypes reads when a type is made; its fields it makes of ``_fields_``, again."""
    for name, value in list(attributes.items()):
        if is_c_field(value):
            del attributes[name]
        elif name[0] == name[-1] == "_" and name[:2] != "__" and name != _FIELDS:
            kept[name] = attributes.pop(name)


def c_type(cls: Any) -> Reduced | None:
    """Refer to a type of ctypes that has no name there.

    That is what it makes of another type, and keeps: pointers, arrays, types of the other byte
    order; and its metaclasses.
    """
    ctypes: Any = sys.modules.get("ctypes")
    if ctypes is None:
        return None
    if issubclass(cls, ctypes.Array) and cls._type_ * cls._length_ is cls:
        return (operator.mul, (cls._type_, cls._length_))
    if issubclass(cls, ctypes._Pointer) and ctypes.POINTER(getattr(cls, "_type_", None)) is cls:
        return (ctypes.POINTER, (cls._type_,))
    if issubclass(cls, ctypes._SimpleCData):
        native = getattr(ctypes, cls.__name__.rpartition("_")[0], None)
        for name in ("__ctype_be__", "__ctype_le__"):
            if getattr(native, name, None) is cls:
                return (getattr, (native, name))
    for base in (ctypes.Structure, ctypes.Union, ctypes.Array, ctypes._Pointer, ctypes._CFuncPtr):
        if type(base) is cls:
            return (type, (base,))
    return None


def subscripted(cls: Any) -> Reduced | None:
    """Refer to a class that its generic class makes of its parameters, and keeps: pydantic's do."""
    generic = vars(cls).get("__pydantic_generic_metadata__")
    if not isinstance(generic, dict) or not generic.get("args"):
        return None
    origin, arguments = generic["origin"], generic["args"]
    return (operator.getitem, (origin, arguments)) if origin[arguments] is cls else None


def _enum(cls: Any) -> Reduced:
    """Return what an enum must have from its birth: attributes, members, options."""
    attributes = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    boundary = getattr(cls, "_boundary_", None)
    options = {} if boundary is None else {"boundary": boundary}
    return attributes, {name: _member(item) for name, item in cls.__members__.items()}, options


def _member(member: Any) -> list[Any]:
    """Return what makes an enum's member without its class's own ``__new__``: no tuple, for `EnumType`."""
    mixin = type(member)._member_type_
    arguments: tuple[Any, ...] = ()
    if mixin is not object:
        reduced: Any = object.__reduce_ex__(member, 2)
        make, arguments = reduced[:2]
        if make is copyreg.__newobj__:  # type: ignore[attr-defined]
            arguments = arguments[1:]
    return [mixin, arguments, member._value_]


def _members(cls: Any) -> Reduced:
    """Return the values and attributes of an enum's members, and by which other values they are found."""
    own = {id(member): member for member in cls.__members__.values()}
    others = {
        value: member._name_
        for value, member in cls._value2member_map_.items()
        if id(member) in own and value != member._value_
    }
    states = {m._name_: (m._value_, member_attributes(m)) for m in own.values()}
    return states, others
