"""A value that was pickled by value, and what the peer has to know to read it."""

from __future__ import annotations

import itertools
import types
import weakref
from typing import TYPE_CHECKING, Any

from bireme import _weak
from bireme._fingerprint import stamp
from bireme._rebuild import ABSENT

if TYPE_CHECKING:
    import pickle
    from collections.abc import Callable, Mapping

    from bireme._rules import Namespace

_serials: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_numbers = itertools.count()


class Needs:
    """What the peer has to know to read a stream.

    Attributes
    ----------
    units : dict
        By-value classes, by id.
    names : dict
        By (namespace label, name): the namespace, and whether the name may be
        left out if its value cannot be pickled.
    inherited : dict
        As `names`, those that the peer has by inheritance, as long as the value is the same.
    modules : dict
        The namespaces of whole modules, by label: what they had once is needed, too.
    references : set
        Those of `names` that the stream refers to: it has what they are when it is read.
    places : list
        Where those were found, and other functions that the stream names: a namespace or a class's
        attributes, the name in it, and what it gave.
    is_anonymous : bool
        Whether there is a function in the stream whose globals are no module's.
    subclasses : bool
        Whether code in it asks for the subclasses of classes.
    """

    __slots__ = (
        "inherited", "is_anonymous", "modules", "names", "places", "references", "subclasses", "units",
    )  # fmt: skip

    def __init__(self) -> None:
        self.units: dict[str, type] = {}
        self.names: dict[tuple[str, str], tuple[Namespace, bool]] = {}
        self.inherited: dict[tuple[str, str], tuple[Namespace, bool]] = {}
        self.modules: dict[str, Namespace] = {}
        self.references: set[tuple[str, str]] = set()
        self.places: list[tuple[Mapping[str, Any], str, Any]] = []
        self.is_anonymous = False
        self.subclasses = False

    def update(self, others: Needs) -> None:
        """Take in what else is needed."""
        self.units.update(others.units)
        self.names.update(others.names)
        self.inherited.update(others.inherited)
        self.modules.update(others.modules)
        self.references.update(others.references)
        self.places += others.places
        self.is_anonymous |= others.is_anonymous
        self.subclasses |= others.subclasses

    def joined(self, others: Needs) -> Needs:
        """Return these and others."""
        both = Needs()
        both.update(self)
        both.update(others)
        return both

    def is_empty(self) -> bool:
        """Say whether the stream has nothing that goes by value."""
        parts = (self.units, self.names, self.inherited, self.modules, self.is_anonymous)
        return not any(parts)

    def holding(self, hold: Callable[[Any], Any]) -> Needs:
        """Return these with what `hold` makes of each class, and without what is gone."""
        same = self.joined(Needs())
        units = {uid: hold(cls) for uid, cls in self.units.items()}
        same.units = {uid: cls for uid, cls in units.items() if cls is not _weak.GONE}
        same.places = []
        return same

    def still_hold(self) -> bool:
        """Say whether what the stream names is still found under its name."""
        return all(held.get(name, ABSENT) is found for held, name, found in self.places)

    def changed(self) -> dict[tuple[str, str], tuple[Namespace, bool]]:
        """Return those of `inherited` that have another value now."""
        return {
            key: (space, optional)
            for key, (space, optional) in self.inherited.items()
            if space.sends(key[1], space.variables.get(key[1], ABSENT))
        }

    def methods(self) -> list[int]:
        """Return the numbers of the methods among them."""
        return [serial(fn) for held, _, fn in self.places if type(held) is types.MappingProxyType]

    def keys(self) -> frozenset[Any]:
        """Return what names these needs."""
        return frozenset((*self.units, *self.names))


class Stream:
    """What one dump gave.

    Attributes
    ----------
    payload : bytes
        The pickle.
    buffers : list of pickle.PickleBuffer
        Its large buffers, in order.
    needs : Needs
        What the peer has to know to read it.
    parts : dict
        The mutable objects inside, and functions, by ``id``: their places in the memo, and themselves.
        Equal payloads list corresponding objects in the same order.
    outlines : bytes
        Of a class: a pickle that makes its functions, but for what is in them. They are there before
        anything else is read, so that whatever refers to them finds them.
    """

    __slots__ = ("buffers", "needs", "outlines", "parts", "payload")

    def __init__(
        self,
        payload: bytes,
        buffers: list[pickle.PickleBuffer],
        needs: Needs,
        parts: dict[int, tuple[int, Any]],
        outlines: bytes = b"",
    ) -> None:
        self.payload = payload
        self.buffers = buffers
        self.needs = needs
        self.parts = parts
        self.outlines = outlines

    def fingerprint(self) -> bytes:
        """Return what changes when the content does (large buffers and methods: their identity)."""
        content = self.outlines + self.payload
        stamps = [*self.needs.methods(), *(identity(buffer) for buffer in self.buffers)]
        return content + repr(stamps).encode() if stamps else content


def serial(fn: Any) -> int:
    """Return the number of a function: another one in its place has another number."""
    return _serials.setdefault(fn, next(_numbers))


def identity(buffer: pickle.PickleBuffer) -> tuple[int, int, int]:
    """Return what identifies a large buffer: its owner, size and `refresh` count."""
    with buffer.raw() as view:
        return (id(view.obj), view.nbytes, stamp(view.obj))
