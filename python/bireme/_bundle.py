"""Definitions on their way to the peer: versions of names, classes, the preamble.

The sender keeps, for each global name that a by-value function used, the pickle
of its value and a version, which grows when that pickle differs. A receiver
sets a name only when the version is newer than the one it has, so what a task
assigned to it stays until the caller's value changes.

Names whose values share mutable objects travel in one pickle: otherwise the peer would get two
copies. Those of them that were sent before, and have not changed since, come first, in pickles of
their own; the others refer to the objects inside of them. A peer that has these keeps them, with
all that its tasks did to them, and has the new names share them. An object that its tasks have
dropped meanwhile is made once more, for the new names alone. So it is with classes, too: each is a
pickle of its own. Its functions are made before anything is read: names and classes refer to each
other's in circles.
"""

from __future__ import annotations

import builtins
import struct
import sys
from _blake2 import blake2b
from _pickle import dumps as plain_dumps
from typing import TYPE_CHECKING, Any

from bireme import _anonymous
from bireme._by_value import Needs, Stream, dump, identity, large
from bireme._classes import Call, Functions, definition, update
from bireme._fingerprint import Watch
from bireme._rebuild import ABSENT, is_known, part, uid_of
from bireme._rules import is_of_module

if TYPE_CHECKING:
    import pickle
    from collections.abc import Iterable, Iterator

    from bireme._rules import Namespace, Rules


#: In place of the pickle of a name that is gone.
_NOTHING = Stream(b"", [], Needs(), {})


class _Name:
    """The value of one global name as it was sent last."""

    __slots__ = ("digest", "held", "name", "space", "stream", "turn", "value", "version", "watch")

    def __init__(self, space: Namespace, name: str) -> None:
        self.space = space
        self.name = name
        self.value: Any = ABSENT
        self.version = 0
        # The bundle for which the version grew last.
        self.turn = 0
        self.digest = b""
        # The versions of what its pickle refers to.
        self.held: dict[tuple[str, str], int] = {}
        self.watch: Watch | None = None
        self.stream = _NOTHING

    @property
    def key(self) -> tuple[str, str]:
        """What names it among all."""
        return (self.space.label, self.name)

    @property
    def needs(self) -> Needs:
        """What the peer has to know to read it."""
        return self.stream.needs

    def update(self, rules: Rules) -> None:
        """Pickle the value again if it may have changed; a name that is gone has an empty pickle."""
        value = self.space.variables.get(self.name, ABSENT)
        if value is ABSENT:
            self.version += self.digest != b"" or not self.version
            self.value, self.stream, self.digest, self.watch = ABSENT, _NOTHING, b"", None
            return
        watch = self.watch
        if watch and value is self.value and _is_as_it_was(watch, self.stream.needs):
            return
        stream = dump((large(value),), rules, names=frozenset((self.key,)), list_parts=True)
        found = digest(stream.fingerprint())
        if found != self.digest:
            self.version += 1
        self.value, self.stream, self.digest = value, stream, found
        self.watch = Watch(value, rules, follow=False)

    def let_go(self) -> None:
        """Keep nothing alive that may keep globals alive which go with their functions."""
        if self.space.is_anonymous and not self.stream.needs.is_empty():
            self.value, self.stream, self.watch = ABSENT, _NOTHING, None

    def is_gone(self) -> bool:
        """Say whether there can be no such name any more."""
        return self.space.is_anonymous and _anonymous.find(self.space.label) is None

    def rank(self) -> int:
        """Order names that nothing else orders: instances last, their making may use the others."""
        return 1 if isinstance(self.value, type) else 2 if self.watch and self.watch.mutable else 0


class _Class:
    """The definition of one by-value class as it was sent last."""

    __slots__ = (
        "attributes", "bases", "cls", "digest", "filling", "functions", "held", "home", "moved", "needs",
        "skeleton", "stream", "turn", "uid", "version", "watch",
    )  # fmt: skip

    def __init__(self, uid: str, cls: type) -> None:
        self.uid = uid
        self.cls: Any = cls
        self.bases = _identities(cls.__bases__)
        self.moved = False
        self.attributes: dict[str, None] = {}
        self.version = 0
        self.watch: Watch | None = None
        self.home: tuple[str, dict[str, Any], str] | None = None
        self.skeleton = b""
        self.filling: list[Call] = []
        self.digest = b""
        self.functions: Functions = (type, {})
        self.stream = _NOTHING
        self.needs = Needs()
        # As in `_Name`.
        self.held: dict[tuple[str, str], int] = {}
        self.turn = 0

    @property
    def key(self) -> tuple[str, str]:
        """What names it among all; no global has an empty name."""
        return (self.uid, "")

    def update(self, rules: Rules) -> None:
        """Pickle the definition again if an attribute may have changed."""
        watch = self.watch
        if watch and _is_as_it_was(watch, self.needs):
            return
        cls = self.cls
        made, filling, self.functions = definition(cls, rules)
        skeleton = dump(made, rules, root=cls)
        # The peer may have the class as it was.
        self.attributes.update(dict.fromkeys(vars(cls)))
        self.moved |= _identities(cls.__bases__) != self.bases
        filling = [*update(cls, self.attributes, self.moved), *filling]
        self.filling = [Call(*call) for call in filling]
        stream = self.dump(rules, list_parts=not rules.returning)
        found = digest(stream.fingerprint())
        if found != self.digest or skeleton.payload != self.skeleton:
            self.version += 1
        self.skeleton, self.stream, self.digest = skeleton.payload, stream, found
        self.needs = Needs()
        for part_of_it in (skeleton, stream):
            self.needs.update(part_of_it.needs)
        self.watch = Watch(cls, rules, follow=False)
        self.home = _home(cls)

    def dump(
        self,
        rules: Rules,
        list_parts: bool,
        known: dict[int, tuple[Any, tuple[Any, ...]]] | None = None,
    ) -> Stream:
        """Pickle what fills the class."""
        return dump(
            self.filling,
            rules,
            self.cls,
            list_parts=list_parts,
            known=known,
            functions=self.functions,
        )

    def let_go(self) -> None:
        """Keep no class alive that may keep globals alive which go with their functions."""
        if not is_of_module(self.cls):
            self.cls, self.filling, self.stream, self.watch = None, [], _NOTHING, None
            self.functions, self.needs = (type, {}), Needs()

    def is_gone(self) -> bool:
        """Say whether there can be no such class any more."""
        return self.cls is None and not is_known(self.uid)


def _is_as_it_was(watch: Watch, needs: Needs) -> bool:
    """Say whether the pickle that needs these can still be sent."""
    return not watch.mutable and watch.unchanged() and needs.still_hold()


def _identities(objects: Iterable[Any]) -> list[int]:
    return list(map(id, objects))


def _home(cls: type) -> tuple[str, dict[str, Any], str] | None:
    name = cls.__module__
    module = sys.modules.get(name)
    if module is None or vars(module).get(cls.__qualname__) is not cls:
        return None
    if name == "__mp_main__":
        name = "__main__"
    return (name, {"__name__": name}, cls.__qualname__)


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
        self._names: dict[tuple[str, str], _Name] = {}
        self._classes: dict[str, _Class] = {}
        self._written: dict[frozenset[Any], tuple[Any, Bundle]] = {}
        self._turn = 0
        self._deaths = _anonymous.deaths

    def dump(self, value: Any) -> Stream:
        """Pickle a value by this side's rules."""
        return dump(value, self.rules)

    def version(self, key: tuple[str, str]) -> int:
        """Return the version of a name in the last bundle."""
        return self._names[key].version

    def entry(self, space: Namespace, name: str) -> _Name:
        """Return the record of a name."""
        key = (space.label, name)
        entry = self._names.get(key)
        if entry is None or entry.space.variables is not space.variables:
            entry = self._names[key] = _Name(space, name)
        return entry

    def bundle(self, needs: Needs) -> Bundle:
        """Make the preamble for some needs and everything these need in turn."""
        if not needs.units and not needs.names and not needs.inherited:
            return _EMPTY
        if self._deaths != _anonymous.deaths:
            self._forget_gone()
        names: dict[tuple[str, str], _Name] = {}
        classes: dict[str, _Class] = {}
        try:
            return self._bundle(needs, names, classes)
        finally:
            _let_go([*names.values(), *classes.values()])

    def _bundle(
        self, needs: Needs, names: dict[tuple[str, str], _Name], classes: dict[str, _Class]
    ) -> Bundle:
        absent: set[tuple[str, str]] = set()
        before: dict[tuple[str, str], int] = {}
        if self._gather(needs, names, classes, absent, before) and not self.rules.returning:
            self._gather_subclasses(names, classes, absent, before)
        return self._write(list(classes.values()), names, before, absent)

    def _gather(
        self,
        needs: Needs,
        names: dict[tuple[str, str], _Name],
        classes: dict[str, _Class],
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
                        self._classes[uid] = _Class(uid, cls)
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
        classes: list[_Class],
        names: dict[tuple[str, str], _Name],
        before: dict[tuple[str, str], int],
        absent: set[tuple[str, str]],
    ) -> Bundle:
        if not classes and not names:
            return _EMPTY
        self._advance([*classes, *names.values()], before)
        groups = _groups(names)
        carries = frozenset((*(item.uid for item in classes), *names, *absent))
        state = (
            [(item.uid, item.version) for item in classes],
            [[(entry.key, entry.version) for entry in group] for group in groups],
        )
        known = self._written.get(carries)
        if known is not None and known[0] == state:
            return known[1]

        units, layers = _layers(groups, classes)
        buffers: list[pickle.PickleBuffer] = []

        def place(stream: Stream) -> tuple[bytes, int, int]:
            first = len(buffers)
            buffers.extend(stream.buffers)
            return (stream.payload, first, len(buffers))

        definitions = []
        for item, unit in zip(classes, units, strict=True):
            stream = unit.stream(self.rules)
            places = _places(unit.entries, stream)
            record = (item.uid, stream.outlines, places, *place(stream))
            after = sorted(unit.owners() | stream.needs.references)
            definitions.append((item.home, item.skeleton, after, record))
        records = []
        for layer in _ordered(layers, classes):
            space, stream = layer.entries[0].space, layer.stream(self.rules)
            places = _places(layer.entries, stream)
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


class _Layer:
    """What travels in one pickle: a class, or names of a group that were sent last at the same time.

    Attributes
    ----------
    entries : list
        The names, or the class.
    known : dict
        The objects in it that earlier layers have: themselves, and calls that give them.
    """

    __slots__ = ("entries", "known")

    def __init__(self, entries: list[Any]) -> None:
        self.entries = entries
        self.known: dict[int, tuple[Any, tuple[Any, ...]]] = {}

    def rank(self, referred: set[tuple[str, str]]) -> tuple[int, int]:
        """Say which layer has an object that several have: the smallest.

        Instances need their classes; these need the names that they refer to, and can wait.
        """
        first = self.entries[0]
        if isinstance(first, _Class):
            return (first.turn, 1)
        return (first.turn, 2 if referred.isdisjoint(e.key for e in self.entries) else 0)

    def owners(self) -> set[tuple[str, str]]:
        """Return the keys of those that have the known objects."""
        return {call[1][:2] for _, call in self.known.values()}

    def stream(self, rules: Rules) -> Stream:
        """Return the pickle."""
        first = self.entries[0]
        if len(self.entries) == 1 and not self.known:
            alone: Stream = first.stream
            return alone
        if isinstance(first, _Class):
            return first.dump(rules, list_parts=True, known=self.known)
        content = tuple(large(entry.value) for entry in self.entries)
        names = frozenset(entry.key for entry in self.entries)
        return dump(content, rules, names=names, list_parts=True, known=self.known)


def _layers(groups: list[list[_Name]], classes: list[_Class]) -> tuple[list[_Layer], list[_Layer]]:
    """Make the layers of classes and of names; say which objects they find in which others.

    What was sent earlier has the objects: the peer may have it, as its tasks have left it.
    """
    units = [_Layer([item]) for item in classes]
    names = [
        _Layer([entry for entry in group if entry.turn == turn])
        for group in groups
        for turn in sorted({entry.turn for entry in group})
    ]
    entries = {entry.key: entry for layer in (*units, *names) for entry in layer.entries}
    found: dict[int, tuple[Any, tuple[Any, ...]]] = {}
    referred = {key for item in classes for key in item.needs.references}
    for layer in sorted((*units, *names), key=lambda layer: layer.rank(referred)):
        known = [key for e in layer.entries for key in e.stream.parts if key in found]
        layer.known = {key: found[key] for key in known}
        if known and not isinstance(layer.entries[0], _Class):
            _leave_out_circles(layer, entries)
        for entry in layer.entries:
            for position, (key, (_, obj)) in enumerate(entry.stream.parts.items()):
                found.setdefault(key, (obj, (part, (*entry.key, entry.version, position))))
    return units, names


def _leave_out_circles(layer: _Layer, entries: dict[tuple[str, str], Any]) -> None:
    """Have names not look for objects in what cannot be read without them (classes can be)."""
    own = {entry.key for entry in layer.entries}
    for owner in layer.owners():
        seen, todo = {owner}, [owner]
        while todo:
            entry = entries.get(todo.pop())
            if entry is None:
                continue
            more = entry.needs.references.union((uid, "") for uid in entry.needs.units) - seen
            seen |= more
            todo += more
        if not own.isdisjoint(seen):
            layer.known = {k: v for k, v in layer.known.items() if v[1][1][:2] != owner}


def _places(entries: list[Any], stream: Stream) -> list[tuple[str, int, list[int]]]:
    """Return the names of a pickle, their versions, and where the parts of each are in its memo."""
    nowhere = (-1, None)  # what was made for another pickle, and is in none but that
    return [
        (e.key[1], e.version, [stream.parts.get(key, nowhere)[0] for key in e.stream.parts])
        for e in entries
    ]


def _groups(names: dict[tuple[str, str], _Name]) -> list[list[_Name]]:
    """Put names of one namespace together whose values share mutable objects."""
    owners: dict[tuple[str, int], tuple[str, str]] = {}
    members: dict[tuple[str, str], list[_Name]] = {}
    for key, entry in names.items():
        group = members[key] = [entry]
        for inner in entry.stream.parts:
            other = members[owners.setdefault((key[0], inner), key)]
            if other is not group:
                other += group
                for moved in group:
                    members[moved.key] = other
                group = other
    groups = list({id(group): group for group in members.values()}.values())
    for group in groups:
        group.sort(key=_Name.rank)
    return sorted(groups, key=lambda group: group[0].rank())


def _ordered(layers: list[_Layer], classes: list[_Class]) -> list[_Layer]:
    """Put names after those that the code which makes their values may use.

    In a circle the first one stays first; the receiver sets what it turns out to lack.
    """
    owners = {entry.key: layer for layer in layers for entry in layer.entries}
    definitions = {item.uid: item for item in classes}

    def needed(key: Any) -> list[Any]:
        layer = owners.get(key)
        parts = [definitions[key].needs] if layer is None else [e.needs for e in layer.entries]
        return [k for needs in parts for k in (*needs.units, *needs.names, *needs.inherited)]

    ordered: dict[int, _Layer] = {}
    seen: set[Any] = set()
    path: list[tuple[Any, Iterator[Any]]] = [(None, iter(list(owners)))]
    while path:
        key, rest = path[-1]
        following = next(
            (k for k in rest if k not in seen and (k in owners or k in definitions)), None
        )
        if following is not None:
            seen.add(following)
            path.append((following, iter(needed(following))))
            continue
        path.pop()
        if (layer := owners.get(key)) is not None:
            ordered.setdefault(id(layer), layer)
    return list(ordered.values())


def digest(content: bytes) -> bytes:
    """Return 16 bytes that stand for some content."""
    return blake2b(content, digest_size=16).digest()


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
