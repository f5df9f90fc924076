"""Definitions on their way to the peer: versions of names, classes, the preamble.

The sender keeps, for each global name that a by-value function used, the pickle
of its value and a version, which grows when that pickle differs. A receiver
sets a name only when the version is newer than the one it has, so what a task
assigned to it stays until the caller's value changes.
"""

from __future__ import annotations

import builtins
import struct
from _pickle import dumps as plain_dumps
from typing import TYPE_CHECKING, Any

from bireme import _anonymous
from bireme._by_value import dump
from bireme._layers import group, in_order, layers_of, places_in
from bireme._rebuild import uid_of
from bireme._sent import Class, Name, digest
from bireme._stream import Needs, Stream, identity

if TYPE_CHECKING:
    import pickle
    from collections.abc import Iterable

    from bireme._rules import Namespace, Rules


class Bundle:
    """A preamble, and what it was made from.

    Attributes
    ----------
    prefix : bytes
        Opens a payload; empty if nothing is needed.
    buffers : list of pickle.PickleBuffer
        Its large buffers; they come before those of the payload's rest.
    carries : frozenset
        The ids of classes and the (label, name) pairs that the receiver knows
        once it has read it, those of names that are not there among them.
    digest : bytes
        Stands for all of it, versions included.
    """

    __slots__ = ("buffers", "carries", "digest", "prefix")

    def __init__(
        self,
        prefix: bytes,
        buffers: list[pickle.PickleBuffer],
        carries: frozenset[Any],
        digest: bytes,
    ) -> None:
        self.prefix = prefix
        self.buffers = buffers
        self.carries = carries
        self.digest = digest


_EMPTY = Bundle(b"", [], frozenset(), b"")
_WRITTEN_MAX = 256


class Sender:
    """Everything one side has sent by value."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._names: dict[tuple[str, str], Name] = {}
        self._classes: dict[str, Class] = {}
        self._written: dict[frozenset[Any], tuple[Any, Bundle]] = {}
        self._turn = 0
        self._deaths = _anonymous.deaths

    def dump(self, value: Any) -> Stream:
        """Pickle a value by this side's rules."""
        return dump(value, self.rules)

    def version(self, key: tuple[str, str]) -> int:
        """Return the version of a name in the last bundle."""
        return self._names[key].version

    def entry(self, space: Namespace, name: str) -> Name:
        """Return the record of a name."""
        key = (space.label, name)
        entry = self._names.get(key)
        if entry is None or entry.space.variables is not space.variables:
            entry = self._names[key] = Name(space, name)
        return entry

    def bundle(self, needs: Needs) -> Bundle:
        """Make the preamble for some needs and everything these need in turn."""
        if not needs.units and not needs.names and not needs.inherited:
            return _EMPTY
        if self._deaths != _anonymous.deaths:
            self._forget_gone()
        names: dict[tuple[str, str], Name] = {}
        classes: dict[str, Class] = {}
        try:
            return self._bundle(needs, names, classes)
        finally:
            _let_go([*names.values(), *classes.values()])

    def _bundle(
        self, needs: Needs, names: dict[tuple[str, str], Name], classes: dict[str, Class]
    ) -> Bundle:
        absent: set[tuple[str, str]] = set()
        before: dict[tuple[str, str], int] = {}
        if self._gather(needs, names, classes, absent, before) and not self.rules.returning:
            self._gather_subclasses(names, classes, absent, before)
        return self._write(list(classes.values()), names, before, absent)

    def _gather(
        self,
        needs: Needs,
        names: dict[tuple[str, str], Name],
        classes: dict[str, Class],
        absent: set[tuple[str, str]],
        before: dict[tuple[str, str], int],
    ) -> bool:
        """Take in what is needed, and what that needs in turn; say whether subclasses are asked for."""
        asks = False
        todo = [needs]
        while todo:
            more = todo.pop()
            asks |= more.subclasses
            for uid, cls in more.units.items():
                if uid not in classes:
                    if uid not in self._classes:
                        self._classes[uid] = Class(uid, cls)
                    item = classes[uid] = self._classes[uid]
                    item.cls = cls
                    before[item.key] = item.version
                    item.update(self.rules)
                    todo.append(item.needs)
            for key, (space, optional) in {
                **self._of_modules(more), **more.names, **more.changed(),
            }.items():  # fmt: skip
                if key in names or key in absent:
                    continue
                if key[1] not in space.variables and self._is_builtin(space, key):
                    absent.add(key)
                    continue
                entry = self.entry(space, key[1])
                before[key] = entry.version
                try:
                    entry.update(self.rules)
                except Exception:
                    if optional:
                        continue
                    raise
                names[key] = entry
                todo.append(entry.stream.needs)
        return asks

    def _gather_subclasses(
        self,
        names: dict[Any, Any],
        classes: dict[Any, Any],
        absent: set[Any],
        before: dict[Any, Any],
    ) -> None:
        """Take in what is derived from the classes, but for what cannot be pickled."""
        tables: tuple[Any, ...] = (names, classes, absent, before)
        todo = [item.cls for item in classes.values()]
        for cls in todo:
            for derived in type.__subclasses__(cls):
                uid = uid_of(derived) if self.rules.needs_by_value(derived) else ""
                if not uid or uid in classes:
                    continue
                needs = Needs()
                needs.units[uid] = derived
                more = [table.copy() for table in tables]
                try:
                    self._gather(needs, *more)
                except Exception:  # the task has no need of it that is known
                    continue
                todo += [item.cls for key, item in more[1].items() if key not in classes]
                for table, taken in zip(tables, more, strict=True):
                    table.update(taken)

    def _forget_gone(self) -> None:
        """Forget what was sent of globals, and classes, that are gone."""
        self._deaths = _anonymous.deaths
        names = [key for key, entry in self._names.items() if entry.is_gone()]
        classes = [uid for uid, item in self._classes.items() if item.is_gone()]
        for key in names:
            del self._names[key]
        for uid in classes:
            del self._classes[uid]
        gone = {*names, *classes}
        for carries in [c for c in self._written if not gone.isdisjoint(c)]:
            del self._written[carries]

    def _of_modules(self, needs: Needs) -> dict[tuple[str, str], tuple[Namespace, bool]]:
        """Return the names of whole modules that were sent before: they may be gone."""
        return {
            key: (needs.modules[key[0]], True)
            for key in (self._names if needs.modules else ())
            if key[0] in needs.modules
        }

    def _is_builtin(self, space: Namespace, key: tuple[str, str]) -> bool:
        """Say whether a name that is not there has always stood for the builtin.

        Of others the peer is told that they are not there: its tasks may set them, and their values
        stay until there is one here.
        """
        if space.inherited is not None or key in self._names:
            return False
        return hasattr(builtins, key[1])

    def _write(
        self,
        classes: list[Class],
        names: dict[tuple[str, str], Name],
        before: dict[tuple[str, str], int],
        absent: set[tuple[str, str]],
    ) -> Bundle:
        if not classes and not names:
            return _EMPTY
        entries: list[Class | Name] = [*classes, *names.values()]
        self._advance(entries, before)
        carries = frozenset((*(item.uid for item in classes), *names, *absent))
        state = [(entry.key, entry.version) for entry in entries]
        known = self._written.get(carries)
        if known is not None and known[0] == state:
            return known[1]

        for entry in entries:
            entry.list_parts(self.rules)
        units, layers = layers_of(group(names), classes)
        buffers: list[pickle.PickleBuffer] = []

        def place(stream: Stream) -> tuple[bytes, int, int]:
            first = len(buffers)
            buffers.extend(stream.buffers)
            return (stream.payload, first, len(buffers))

        definitions = []
        for item, unit in zip(classes, units, strict=True):
            stream = unit.stream(self.rules)
            places = places_in(unit.entries, stream)
            record = (item.uid, stream.outlines, places, *place(stream))
            after = sorted(unit.owners() | stream.needs.references)
            definitions.append((item.home, item.skeleton, after, record))
        records = []
        for layer in in_order(layers, classes):
            space, stream = layer.entries[0].space, layer.stream(self.rules)
            places = places_in(layer.entries, stream)
            records.append((space.label, space.attributes, places, *place(stream)))
        preamble = plain_dumps((not self.rules.returning, definitions, records), 5)
        stamps = repr([identity(buffer) for buffer in buffers]).encode()
        content = digest(preamble + stamps)
        bundle = Bundle(_prefix(content, preamble, buffers), buffers, carries, content)
        self._written.pop(carries, None)
        if not buffers:  # it would keep them when their owner has dropped them
            if len(self._written) >= _WRITTEN_MAX:
                del self._written[next(iter(self._written))]
            self._written[carries] = (state, bundle)
        return bundle

    def _advance(self, entries: list[Any], before: dict[tuple[str, str], int]) -> None:
        """Have the version of a name, or class, grow with those of what it refers to."""
        followers: dict[tuple[str, str], list[Any]] = {}
        todo = []
        for entry in entries:
            for key in entry.stream.needs.references:
                followers.setdefault(key, []).append(entry)
            if entry.version > before[entry.key] or self._versions(entry.held) != entry.held:
                todo.append(entry)
        newer = {}
        while todo:
            entry = todo.pop()
            if entry.key not in newer:
                newer[entry.key] = entry
                todo += followers.get(entry.key, ())
        self._turn += 1
        for entry in newer.values():
            entry.version = max(entry.version, before[entry.key] + 1)
        for entry in newer.values():
            entry.held = self._versions(entry.stream.needs.references)
            entry.turn = self._turn

    def _versions(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        return {key: self._names[key].version for key in keys}


def _let_go(entries: list[Any]) -> None:
    """Keep nothing of globals that live by their functions alone, nor of the classes beside them."""
    if any(entry.stream.needs.is_anonymous for entry in entries):
        for entry in entries:
            entry.let_go()


def _prefix(fingerprint: bytes, preamble: bytes, buffers: Iterable[pickle.PickleBuffer]) -> bytes:
    """Write ``enter(fingerprint, preamble, [buffers])`` as pickle opcodes.

    A pickle of its own follows: these opcodes use no memo, so that the two make one
    stream. What `enter` returns stays below on the stack until that one is loaded.
    """
    opcodes = [b"\x80\x05cbireme._rebuild\nenter\nC\x10", fingerprint]
    if len(preamble) < 1 << 32:
        opcodes += [b"B", struct.pack("<I", len(preamble)), preamble]
    else:
        opcodes += [b"\x8e", struct.pack("<Q", len(preamble)), preamble]
    opcodes.append(b"](")
    for buffer in buffers:
        with buffer.raw() as view:
            opcodes.append(b"\x97\x98" if view.readonly else b"\x97")
    opcodes.append(b"e\x87R")
    return b"".join(opcodes)
