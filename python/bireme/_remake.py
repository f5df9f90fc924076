"""Make objects anew, in this process, whose types pickle cannot make; `_rebuild` has functions and classes."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing `typing` costs more than the rest of this module
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def constant(kind: Any, name: str) -> Any:
    """Return the instance that a class's module holds under a name; a new one where it does not."""
    value = getattr(sys.modules[kind.__module__], name, None)
    return value if type(value) is kind else kind.__new__(kind)


def made_in(module: str, kind: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Call a type that notes which module calls it."""
    names = {"__name__": module, "kind": kind, "args": args, "options": options}
    return eval("kind(*args, **options)", names)


def type_alias(module: str, name: str, parameters: tuple[Any, ...], values: list[Any]) -> Any:
    """Rebuild what ``type name[...] = ...`` makes; its value is still to come."""
    names: dict[str, Any] = {"__name__": module}
    exec(f"def make(values):\n type {name} = values[0]\n return {name}", names)
    make = names["make"]
    if parameters:
        # The statement would make new ones. Without any, it takes them from the constant `None`.
        constants = (parameters if value is None else value for value in make.__code__.co_consts)
        make.__code__ = make.__code__.replace(co_consts=tuple(constants))
    return make(values)


def fill_type_alias(_alias: Any, state: tuple[list[Any], tuple[Any, ...]]) -> None:
    """Give a type alias its value."""
    values, value = state
    values.extend(value)


def cached_property(make: Callable[..., Any], fn: Any, name: str | None) -> Any:
    """Rebuild a `functools.cached_property` (3.11's holds a lock)."""
    prop = make(fn)
    prop.attrname = name
    return prop


def lru_cache(fn: Any, parameters: dict[str, Any], attributes: dict[str, Any]) -> Any:
    """Rebuild a `functools.lru_cache` wrapper, with an empty cache."""
    import functools

    wrapper = functools.lru_cache(**parameters)(fn)
    wrapper.__dict__.update(attributes)
    return wrapper
