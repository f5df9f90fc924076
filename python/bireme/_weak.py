"""Hold objects weakly where that is possible."""

from __future__ import annotations

import weakref

TYPE_CHECKING = False  # importing `typing` costs more than this module
if TYPE_CHECKING:
    from typing import Any, Final

#: What `held` finds where an object was.
GONE: Final = object()


class Weak(weakref.ref["Any"]):
    """A weak reference of ours: what is held may be one, too."""

    __slots__ = ()


def hold(value: Any) -> Any:
    """Return what `held` finds an object with, if possible without keeping it alive."""
    try:
        return Weak(value)
    except TypeError:
        return value


def held(holder: Any) -> Any:
    """Return the object that `hold` was given, or `GONE`."""
    if type(holder) is not Weak:
        return holder
    value = holder()
    return GONE if value is None else value
