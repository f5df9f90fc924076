"""Which names and classes travel in one pickle, in which order, and which objects they share.

Names whose values share mutable objects travel in one pickle: otherwise the peer would get two
copies. Those of them that were sent before, and have not changed since, come first, in pickles of
their own; the others refer to the objects inside of them. A peer that has these keeps them, with
all that its tasks did to them, and has the new names share them. An object that its tasks have
dropped meanwhile is made once more, for the new names alone. So it is with classes, too: each is a
pickle of its own. Its functions are made before anything is read: names and classes refer to each
other's in circles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bireme._by_value import dump, large
from bireme._rebuild import part
from bireme._sent import Class, Name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bireme._rules import Rules
    from bireme._stream import Stream


class Layer:
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
        if isinstance(first, Class):
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
        if isinstance(first, Class):
            return first.dump(rules, list_parts=True, known=self.known)
        content = tuple(large(entry.value) for entry in self.entries)
        names = frozenset(entry.key for entry in self.entries)
        return dump(content, rules, names=names, list_parts=True, known=self.known)


def layers_of(groups: list[list[Name]], classes: list[Class]) -> tuple[list[Layer], list[Layer]]:
    """Make the layers of classes and of names; say which objects they find in which others.

    What was sent earlier has the objects: the peer may have it, as its tasks have left it.
    """
    units = [Layer([item]) for item in classes]
    names = [
        Layer([entry for entry in group if entry.turn == turn])
        for group in groups
        for turn in sorted({entry.turn for entry in group})
    ]
    entries = {entry.key: entry for layer in (*units, *names) for entry in layer.entries}
    found: dict[int, tuple[Any, tuple[Any, ...]]] = {}
    referred = {key for item in classes for key in item.needs.references}
    for layer in sorted((*units, *names), key=lambda layer: layer.rank(referred)):
        known = [key for e in layer.entries for key in e.stream.parts if key in found]
        layer.known = {key: found[key] for key in known}
        if known and not isinstance(layer.entries[0], Class):
            _leave_out_circles(layer, entries)
        for entry in layer.entries:
            for position, (key, (_, obj)) in enumerate(entry.stream.parts.items()):
                found.setdefault(key, (obj, (part, (*entry.key, entry.version, position))))
    return units, names


def _leave_out_circles(layer: Layer, entries: dict[tuple[str, str], Any]) -> None:
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


def places_in(entries: list[Any], stream: Stream) -> list[tuple[str, int, list[int]]]:
    """Return the names of a pickle, their versions, and where the parts of each are in its memo."""
    nowhere = (-1, None)  # what was made for another pickle, and is in none but that
    return [
        (e.key[1], e.version, [stream.parts.get(key, nowhere)[0] for key in e.stream.parts])
        for e in entries
    ]


def group(names: dict[tuple[str, str], Name]) -> list[list[Name]]:
    """Put names of one namespace together whose values share mutable objects."""
    owners: dict[tuple[str, int], tuple[str, str]] = {}
    members: dict[tuple[str, str], list[Name]] = {}
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
        group.sort(key=Name.rank)
    return sorted(groups, key=lambda group: group[0].rank())


def in_order(layers: list[Layer], classes: list[Class]) -> list[Layer]:
    """Put names after those that the code which makes their values may use.

    In a circle the first one stays first; the receiver sets what it turns out to lack.
    """
    owners = {entry.key: layer for layer in layers for entry in layer.entries}
    definitions = {item.uid: item for item in classes}

    def needed(key: Any) -> list[Any]:
        layer = owners.get(key)
        parts = [definitions[key].needs] if layer is None else [e.needs for e in layer.entries]
        return [k for needs in parts for k in (*needs.units, *needs.names, *needs.inherited)]

    ordered: dict[int, Layer] = {}
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
