"""Arguments checked: an error names the argument, its value, and what was expected."""

from __future__ import annotations

from operator import index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

MOST = 2**63 - 1  # what the core counts with
_SHOWN = 60


def refuse(kind: type[Exception], name: str, wanted: str, value: Any) -> NoReturn:
    """Raise `kind` for the argument `name`, which must be something else than `value`."""
    try:
        shown = repr(value)
    except Exception:  # a number of too many digits, or an object's own failure
        shown = f"a {type(value).__name__}"
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}..."
    raise kind(f"{name} must be {wanted}, got {shown}") from None


def whole(name: str, value: Any, least: int, most: int = MOST) -> int:
    """Give `value` as an int from `least` to `most`."""
    wanted = f"an int of at least {least}" if most == MOST else f"an int from {least} to {most}"
    try:
        number = index(value)
    except TypeError:
        refuse(TypeError, name, wanted, value)
    if number > MOST:
        wanted = f"an int from {least} to {most}"
    if not least <= number <= most:
        refuse(ValueError, name, wanted, value)
    return number


def seconds(name: str, value: Any) -> float | None:
    """Give `value` as a positive number of seconds, or `None` as it is."""
    if value is None:
        return None
    wanted = "a positive number of seconds or None"
    number = _number(name, wanted, value)
    if not 0 < number < MOST:
        refuse(ValueError, name, wanted, value)
    return number


def wait(name: str, value: Any) -> float | None:
    """Give `value` as seconds to wait, or `None` as it is; what is below zero is no time at all."""
    if value is None:
        return None
    wanted = "a number of seconds or None"
    number = _number(name, wanted, value)
    if number != number:
        refuse(ValueError, name, wanted, value)
    return number


def _number(name: str, wanted: str, value: Any) -> float:
    if not hasattr(value, "__float__") and not hasattr(value, "__index__"):
        refuse(TypeError, name, wanted, value)
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def flag(name: str, value: Any) -> bool:
    """Give `value` if it is a bool."""
    if not isinstance(value, bool):
        refuse(TypeError, name, "True or False", value)
    return value


def text(name: str, value: Any) -> None:
    """Refuse what cannot stand in the title of a process."""
    if not isinstance(value, str):
        refuse(TypeError, name, "a str or None", value)
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        encoded = b"\0"
    if 0 in encoded:
        refuse(ValueError, name, "text that has a UTF-8 form, and no NUL in it", value)


def items(name: str, value: Any) -> None:
    """Refuse what cannot be iterated over."""
    try:
        iter(value)
    except TypeError:
        refuse(TypeError, name, "iterable", value)


def function(name: str, value: Any, *, optional: bool = False) -> None:
    """Refuse what cannot be called; `None` is fine if it is `optional`."""
    if not callable(value) and not (optional and value is None):
        refuse(TypeError, name, "callable or None" if optional else "callable", value)
