"""The content of objects that pickle as nothing but the name of a global.

``typing.NewType``, type parameters, PEP 695 aliases, sentinels, cached classes: pickle has them
found under their name. Whoever does not have the name yet is sent what is made here.
"""

from __future__ import annotations

import enum
import functools
import keyword
import sys
import types
from copyreg import __newobj__  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

from bireme import _remake
from bireme._fingerprint import HEAP_TYPE
from bireme._rules import MAIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from bireme._rules import Rules

_LRU = type(functools.lru_cache(len))
#: What a parameter's constructor is given back, where the attribute is there.
_OPTIONS = {
    "bound": "__bound__",
    "covariant": "__covariant__",
    "contravariant": "__contravariant__",
    "infer_variance": "__infer_variance__",
}


def definition(
    obj: Any, module: str, shared: Callable[[object, tuple[Any, ...]], Any]
) -> tuple[Any, ...]:
    """Reduce such an object to what it is made of.

    Parameters
    ----------
    obj : object
        Whose ``__reduce__`` gives a name.
    module : str
        The module that it belongs to.
    shared : callable
        ``shared(key, call)`` gives what pickles as a call, once a stream for each key.

    Returns
    -------
    tuple
        A reduction.

    Raises
    ------
    TypeError
        If its type does not tell what its objects are made of.
    """
    kind = type(obj)
    if kind.__module__ == "typing" and kind.__name__ in _TYPING:
        return _TYPING[kind.__name__](obj, module, shared)
    if kind is _LRU:
        attributes = {name: value for name, value in vars(obj).items() if name != "__wrapped__"}
        return (_remake.lru_cache, (obj.__wrapped__, obj.cache_parameters(), attributes))
    if issubclass(kind, enum.Enum):
        return (kind, (obj._value_,))
    arguments: tuple[Any, ...] = getattr(obj, "__getnewargs__", tuple)()
    make: Any = kind.__new__
    if not arguments and (
        not kind.__flags__ & HEAP_TYPE
        or (make is not object.__new__ and type(make) is types.BuiltinFunctionType)
    ):  # what it is made of is in C, as that of a ufunc by `numpy.frompyfunc`
        raise TypeError(f"cannot pickle {kind.__name__!r} object")
    return (__newobj__, (kind, *arguments), obj.__getstate__())


def constants(kind: type, rules: Rules) -> dict[int, tuple[str, Any]]:
    """Return the instances of a class that its module holds, and their names, by ``id``.

    None for modules that travel, and for ``__main__``: what is there is no constant.
    """
    if rules.needs_by_value(kind) or kind.__module__ in MAIN:
        return {}
    variables = vars(sys.modules[kind.__module__])
    return {
        id(value): (name, value) for name, value in list(variables.items()) if type(value) is kind
    }


def is_stateless(obj: Any) -> bool:
    """Say whether an object is nothing but an instance of its class; others may have been changed."""
    _, arguments, *rest = obj.__reduce_ex__(5)
    return len(arguments) == 1 and all(part is None for part in rest)


def _parameter(obj: Any, module: str, _shared: Any) -> tuple[Any, ...]:
    """Reduce a `ParamSpec` or `TypeVarTuple` (cloudpickle has a way for `TypeVar`)."""
    options = {
        option: value
        for option, attribute in _OPTIONS.items()
        if (value := getattr(obj, attribute, None))
    }
    if getattr(obj, "has_default", bool)():
        options["default"] = obj.__default__
    return (_remake.made_in, (module, type(obj), (obj.__name__,), options))


def _alias(obj: Any, module: str, shared: Any) -> tuple[Any, ...]:
    """Reduce a ``type`` statement's object; its value may name the alias itself."""
    name = obj.__name__
    if not name.isidentifier() or keyword.iskeyword(name):
        options = {"type_params": obj.__type_params__}
        return (_remake.made_in, (module, type(obj), (name, obj.__value__), options))
    value: tuple[Any, ...]
    try:
        value = (obj.__value__,)
    except NameError:  # a name that is there for type checkers only
        value = ()
    values = shared(obj, (list, ()))
    make = (module, name, obj.__type_params__, values)
    return (_remake.type_alias, make, (values, value), None, None, _remake.fill_type_alias)


_TYPING = {"ParamSpec": _parameter, "TypeVarTuple": _parameter, "TypeAliasType": _alias}
