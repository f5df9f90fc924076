"""Warnings filters on their way to a worker, which may not have loaded their categories yet."""

from __future__ import annotations

import builtins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Filter = tuple[str, Any, Any, Any, int]


class _Named(type):
    """The kind of a class that stands for the one of its name, to be a base of what derives from that.

    So a filter works as soon as there is a warning for it: nothing is imported for it, and it makes no
    difference whether the category is of an installed module or came by value.
    """

    def __subclasscheck__(cls, other: type) -> bool:
        wanted = _name(cls)
        return any(_name(base) == wanted for base in other.__mro__)


def _name(cls: type) -> str:
    # A worker that imports the script calls it otherwise.
    module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__
    return f"{module}:{cls.__qualname__}"


def capture() -> list[Filter]:
    """Describe the filters of this process, in order."""
    import warnings

    return [
        (action, message, _packed(category), module, line)
        for action, message, category, module, line in warnings.filters
    ]


def restore(filters: list[Filter]) -> None:
    """Have the filters that were captured, and no others."""
    import warnings

    warnings.resetwarnings()  # what was shown under other filters is forgotten, too
    warnings.filters[:] = [  # type: ignore[index]
        (action, message, _unpacked(category), module, line)
        for action, message, category, module, line in filters
    ]


def _packed(category: Any) -> Any:
    """Give a category that every process can unpickle: a builtin one, or the name of another."""
    if isinstance(category, tuple):
        return tuple(map(_packed, category))
    is_builtin = vars(builtins).get(category.__name__) is category
    return category if is_builtin else _name(category)


def _unpacked(category: Any) -> Any:
    if isinstance(category, tuple):
        return tuple(map(_unpacked, category))
    if not isinstance(category, str):
        return category
    module, _, name = category.partition(":")
    namespace = {"__module__": module, "__qualname__": name}
    return _Named(name.rpartition(".")[2], (Warning,), namespace)
