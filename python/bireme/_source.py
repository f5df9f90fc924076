"""The items of one call of `bireme.map`, taken from the front."""

from __future__ import annotations

from itertools import islice

from bireme import _checks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

_SEQUENCES = frozenset((list, tuple, range))


class Source:
    """The items of a call, taken from the front.

    Parameters
    ----------
    fn : callable
        What is called on them.
    iterables : tuple of iterable
        Several are zipped.
    star : bool
        Whether an item is unpacked into arguments.
    """

    def __init__(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], star: bool
    ) -> None:
        self.fn = fn
        self.star = star or len(iterables) > 1  # whether an item is unpacked into arguments
        self._sequences: tuple[Any, ...] = iterables
        self._iterator: Iterator[Any] | None = None
        self.total: int | None = None  # unknown until an iterator has been read
        self.taken = 0
        for iterable in iterables:
            if type(iterable) not in _SEQUENCES and not _is_array(iterable):
                for index, other in enumerate(iterables):
                    _checks.items(f"iterables[{index}]", other)
                one = len(iterables) == 1
                self._iterator = iter(iterables[0]) if one else zip(*iterables, strict=False)
                return
        self._count()

    def _count(self) -> None:
        parts = self._sequences
        self.total = len(parts[0]) if len(parts) == 1 else min([len(part) for part in parts])

    def take(self, size: int) -> list[Any]:
        """Give the next items, at most `size`; those of several iterables as tuples."""
        begin = self.taken
        part: Any
        if self._iterator is not None:
            part = list(islice(self._iterator, size))
        else:
            end: int = begin + size
            if end > self.total:  # type: ignore[operator]
                end = self.total  # type: ignore[assignment]
            if len(self._sequences) == 1:
                part = self._sequences[0][begin:end]
            else:
                part = list(zip(*[part[begin:end] for part in self._sequences], strict=False))
            if len(part) < end - begin:
                raise RuntimeError("a list became shorter while its items ran")
        self.taken = begin + len(part)
        return part  # type: ignore[no-any-return]

    def left(self) -> int:
        """Count the items left; an iterator is read to its end for that."""
        if self._iterator is not None:
            self._sequences, self._iterator = (list(self._iterator),), None
            self.taken = 0
            self._count()
        return self.total - self.taken  # type: ignore[operator]

    def rest(self) -> tuple[Any, bool]:
        """Give the items left, and whether each is unpacked into arguments."""
        self.left()
        parts = [part[self.taken :] if self.taken else part for part in self._sequences]
        if len(parts) == 1:
            return parts[0], self.star
        return list(zip(*parts, strict=False)), True

    def sample(self) -> Any:
        """Give the last item taken."""
        items = [part[max(0, self.taken - 1)] for part in self._sequences]
        return items[0] if len(items) == 1 else items


def _is_array(value: object) -> bool:
    kind = type(value)
    return kind.__name__ == "ndarray" and kind.__module__ == "numpy" and bool(value.ndim)  # type: ignore[attr-defined]
