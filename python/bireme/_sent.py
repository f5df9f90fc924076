"""Names and classes as they were sent last."""

from __future__ import annotations

import sys
from _blake2 import blake2b
from typing import TYPE_CHECKING, Any

from bireme import _anonymous
from bireme._by_value import dump, large
from bireme._classes import Call, Functions, definition, update
from bireme._fingerprint import Watch
from bireme._rebuild import ABSENT, is_known
from bireme._rules import is_of_module
from bireme._stream import Needs, Stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bireme._rules import Namespace, Rules

#: In place of the pickle of a name that is gone.
NOTHING = Stream(b"", [], Needs(), {})


class Name:
    """The value of one global name as it was sent last."""

    __slots__ = (
        "digest", "held", "lists_parts", "name", "space", "stream", "turn", "value", "version", "watch",
    )  # fmt: skip

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
        self.stream = NOTHING
        self.lists_parts = True

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
            self.value, self.stream, self.digest, self.watch = ABSENT, NOTHING, b"", None
            self.lists_parts = True
            return
        watch = self.watch
        if watch and value is self.value and _is_as_it_was(watch, self.stream.needs):
            return
        lists_parts = not self.version
        stream = self._dump(value, rules, lists_parts)
        found = digest(stream.fingerprint())
        if found != self.digest:
            self.version += 1
        self.value, self.stream, self.digest = value, stream, found
        self.lists_parts = lists_parts
        self.watch = Watch(value, rules, follow=False)

    def _dump(self, value: Any, rules: Rules, list_parts: bool) -> Stream:
        names = frozenset((self.key,))
        return dump((large(value),), rules, names=names, list_parts=list_parts)

    def list_parts(self, rules: Rules) -> None:
        """Have the pickle list its parts. That takes long: it is done for what is to be sent."""
        if not self.lists_parts:
            self.stream, self.lists_parts = self._dump(self.value, rules, True), True

    def let_go(self) -> None:
        """Keep nothing alive that may keep globals alive which go with their functions."""
        if self.space.is_anonymous and not self.stream.needs.is_empty():
            self.value, self.stream, self.watch = ABSENT, NOTHING, None

    def is_gone(self) -> bool:
        """Say whether there can be no such name any more."""
        return self.space.is_anonymous and _anonymous.find(self.space.label) is None

    def rank(self) -> int:
        """Order names that nothing else orders: instances last, their making may use the others."""
        return 1 if isinstance(self.value, type) else 2 if self.watch and self.watch.mutable else 0


class Class:
    """The definition of one by-value class as it was sent last."""

    __slots__ = (
        "attributes", "bases", "cls", "digest", "filling", "functions", "held", "home", "lists_parts",
        "moved", "needs", "skeleton", "stream", "turn", "uid", "version", "watch",
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
        self.lists_parts = True
        self.functions: Functions = (type, {})
        self.stream = NOTHING
        self.needs = Needs()
        # As in `Name`.
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
        lists_parts = rules.returning or not self.version
        stream = self.dump(rules, list_parts=lists_parts and not rules.returning)
        found = digest(stream.fingerprint())
        if found != self.digest or skeleton.payload != self.skeleton:
            self.version += 1
        self.skeleton, self.stream, self.digest = skeleton.payload, stream, found
        self.lists_parts = lists_parts
        self.needs = Needs()
        for part_of_it in (skeleton, stream):
            self.needs.update(part_of_it.needs)
        self.watch = Watch(cls, rules, follow=False)
        self.home = _home(cls)

    def list_parts(self, rules: Rules) -> None:
        """Have the pickle list its parts, as that of a name."""
        if not self.lists_parts:
            self.stream, self.lists_parts = self.dump(rules, list_parts=True), True

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
            self.cls, self.filling, self.stream, self.watch = None, [], NOTHING, None
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


def digest(content: bytes) -> bytes:
    """Return 16 bytes that stand for some content."""
    return blake2b(content, digest_size=16).digest()
