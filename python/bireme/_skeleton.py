"""Make the classes that `_classes` has taken apart: skeletons, and what fills them.

The streams name these functions; `_rebuild` says when they run.
"""

from __future__ import annotations

import sys
import types

from bireme._rebuild import bring, spared, uids

TYPE_CHECKING = False  # importing `typing` costs more than the rest of this module
if TYPE_CHECKING:
    from typing import Any


def plain_class(
    origin: Any, kind: Any, name: str, bases: tuple[Any, ...], attributes: dict[str, Any]
) -> type:
    """Make a class that is still to be filled.

    Parameters
    ----------
    origin : type
        The nearest ancestor of the metaclass that did not travel: it makes the class.
    kind : type
        The metaclass.
    name : str
        The class's name.
    bases : tuple
        Its bases, or what ``__orig_bases__`` has of them.
    attributes : dict
        What it must have from the start.
    """
    resolved = types.resolve_bases(bases)
    variables = origin.__prepare__(name, resolved)
    for key, value in attributes.items():
        variables[sys.intern(key)] = value
    if resolved is not bases:
        variables["__orig_bases__"] = bases
    return _new_class(origin, kind, name, resolved, variables, {})


def enum_class(
    origin: Any,
    kind: Any,
    name: str,
    bases: tuple[Any, ...],
    attributes: dict[str, Any],
    members: dict[str, list[Any]],
    options: dict[str, Any],
) -> type:
    """Make an enum with its members; other attributes of both are still to come.

    The parameters are those of `plain_class`, then what makes each member: the type that is mixed
    in, the arguments of its ``__new__``, the value.
    """

    def new(cls: type, made: Any) -> Any:
        mixin, arguments, value = made[0] if type(made) is tuple else made
        member = mixin.__new__(cls, *arguments)
        member._value_ = value
        return member

    def init(_member: Any, _made: Any) -> None:
        """Leave out the ``__init__`` of what is mixed in, which ran at home."""

    variables = origin.__prepare__(name, bases)
    ours: dict[str, Any] = {"__new__": new, "__init__": init} if members else {}
    for key, value in {**ours, **attributes, **members}.items():
        variables[key] = value
    cls = _new_class(origin, kind, name, bases, variables, options)
    for key, value in list(vars(cls).items()):
        if ours and (value is new or value is init or key == "_use_args_"):
            type.__delattr__(cls, key)
    return cls


def _new_class(
    origin: Any,
    kind: Any,
    name: str,
    bases: tuple[type, ...],
    variables: dict[str, Any],
    options: dict[str, Any],
) -> type:
    """Let the metaclass's ancestor make the class; the hooks of by-value bases have run at home.

    There is no way past an ``__init_subclass__`` but that it is not there. The lock of `_rebuild`
    is held; another thread that makes a subclass at this moment would miss the hook.
    """
    ancestors = {id(cls): cls for base in bases for cls in base.__mro__ if id(cls) in uids}
    hooks = [
        (cls, vars(cls)["__init_subclass__"])
        for cls in ancestors.values()
        if "__init_subclass__" in vars(cls)
    ]
    try:
        for cls, _ in hooks:
            type.__delattr__(cls, "__init_subclass__")
        made: type = origin.__new__(kind, name, bases, variables, **options)
        origin.__init__(made, name, bases, variables, **options)
        return made
    finally:
        for cls, hook in hooks:
            type.__setattr__(cls, "__init_subclass__", hook)


def held(cls: Any, name: str) -> Any:
    """Return what a class holds itself, as it is there: no binding."""
    bring(cls)
    return vars(cls)[name]


def fill_class(cls: Any, origin: Any, attributes: dict[str, Any]) -> None:
    """Give a class attributes, whatever its own metaclass says of setting them."""
    if id(cls) in spared:
        return
    for name, value in attributes.items():
        if name != "_abc_impl":
            origin.__setattr__(cls, name, value)
    if "__firstlineno__" in attributes:  # setting `__module__` deletes it
        origin.__setattr__(cls, "__firstlineno__", attributes["__firstlineno__"])
    if "_abc_impl" in attributes:
        from abc import ABCMeta

        for subclass in attributes["_abc_impl"]:
            ABCMeta.register(cls, subclass)


def set_bases(cls: Any, bases: tuple[type, ...]) -> None:
    """Give a class other bases than it was made with."""
    if id(cls) not in spared and cls.__bases__ != bases:
        cls.__bases__ = bases


def delete_attributes(cls: Any, names: list[str]) -> None:
    """Delete attributes of a class that it has no longer where it comes from."""
    for name in names:
        if id(cls) not in spared and name in vars(cls):
            type.__delattr__(cls, name)


def fill_members(
    cls: Any, members: dict[str, tuple[Any, dict[str, Any]]], others: dict[Any, str]
) -> None:
    """Give the members of an enum the values and attributes that their class's code has set.

    Parameters
    ----------
    cls : type
        The enum.
    members : dict
        The value, and the attributes, of each member.
    others : dict
        The names of the members that are found by yet other values.
    """
    if id(cls) in spared:
        return
    for name, (value, attributes) in members.items():
        own = vars(cls.__members__[name])
        for key in own.keys() - attributes.keys():
            if not key.startswith("_"):
                del own[key]
        own.update(attributes, _value_=value)
    for value, name in others.items():
        cls._value2member_map_[value] = cls.__members__[name]
