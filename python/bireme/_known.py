"""What workers know once they have loaded a function: what its arguments need not repeat.

A function brings the definitions that it names. An importable one names none, and a short one
need not name the class of its argument. What such arguments need rides with them, at first.
When the same is needed again, and as many bytes have ridden as the function has, it is placed
anew, with that as its preamble, and each worker reads it once: at most twice the bytes that the
better of both would have cost. What is never needed twice (a class made for one task, a global
that always changes) goes on riding: functions do not grow by it.
"""

from __future__ import annotations

from bireme import _weak

TYPE_CHECKING = False  # importing `typing` costs more than the rest of this module
if TYPE_CHECKING:
    from pickle import PickleBuffer
    from typing import Any

    from bireme._bundle import Bundle, Sender
    from bireme._stream import Needs

#: Preambles that rode once, of which one may come again.
_RODE_MAX = 64
#: Classes and names that one preamble is made for, and needs that it covers: then anew.
_NEEDED_MAX = 256


class Known:
    """What comes with a function as it was placed.

    It never changes but for what rode: who submits has the function with it, while another
    thread may be about to place the function anew.

    Parameters
    ----------
    carries : frozenset
        What the function itself brings; it is sent again when that changes.
    needs : Needs, optional
        What its arguments turned out to need.
    covered : frozenset, optional
        The digests of preambles that need not be sent: a change would give another digest.
    """

    __slots__ = ("_covered", "_needs", "_rode", "_rode_bytes", "carries")

    def __init__(
        self,
        carries: frozenset[Any],
        needs: Needs | None = None,
        covered: frozenset[bytes] = frozenset(),
    ) -> None:
        self.carries = carries
        self._needs = needs and needs.holding(_weak.hold)
        self._covered = covered
        self._rode: dict[bytes, None] = {}
        self._rode_bytes = 0

    def covers(self, bundle: Bundle) -> bool:
        """Say whether this preamble would tell nothing new."""
        return not bundle.prefix or bundle.digest in self._covered

    def rides(self, bundle: Bundle, function_bytes: int) -> bool:
        """Say whether this preamble is to ride now; else the function is to be placed anew."""
        if bundle.digest in self._rode and self._rode_bytes >= function_bytes:
            return False
        self._rode_bytes += size_of(bundle.prefix, bundle.buffers)
        self._rode[bundle.digest] = None
        if len(self._rode) > _RODE_MAX:
            del self._rode[next(iter(self._rode))]
        return True

    def grown(self, needs: Needs, bundle: Bundle, sender: Sender) -> tuple[Known, Bundle]:
        """Return what is known once these needs are met, too, and the preamble which does that."""
        before = self._needs
        if before is not None and max(len(before.keys()), len(self._covered)) < _NEEDED_MAX:
            try:
                union = needs.joined(before.holding(_weak.held))
                both = sender.bundle(union)
                return Known(self.carries, union, self._covered | {bundle.digest}), both
            except (
                Exception
            ):  # what was needed before can no longer be sent: its own tasks will say so
                before = None
        return Known(self.carries, needs, frozenset({bundle.digest})), bundle


def size_of(payload: bytes, buffers: list[PickleBuffer]) -> int:
    """Return how many bytes these are."""
    return len(payload) + sum(buffer.raw().nbytes for buffer in buffers)
