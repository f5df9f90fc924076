"""Random streams of an item: from the seed of the call and the item's index alone.

Each item gets a fresh `random` state and a fresh legacy NumPy state (if NumPy is or gets
loaded) seeded by a hash of (seed, index); `rng` gives a NumPy Generator from the same
source, as `numpy.random.SeedSequence` spawns streams. A call with a seed inside of such
an item has streams of its own from the path of seeds and indices (`nested`), and leaves
the outer item's as they were (`Kept`).
"""

from __future__ import annotations

import random
import sys
from _blake2 import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType, TracebackType
    from typing import Any

    import numpy

_item: tuple[int, int] | None = None
_generator: numpy.random.Generator | None = None


def _hash(text: str, size: int) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=size).digest(), "little")


def _entropy(seed: int, index: int) -> int:
    return _hash(f"{seed}:{index}", 16)


def seed_item(seed: int, index: int) -> None:
    """Start the streams of item `index`."""
    global _item, _generator
    _item, _generator = (seed, index), None
    random.seed(_entropy(seed, index))
    if "numpy.random" in sys.modules:
        _seed_numpy(seed, index)
    elif _awaits_numpy not in sys.meta_path:
        sys.meta_path.insert(0, _awaits_numpy)


def _seed_numpy(seed: int, index: int) -> None:
    entropy = _entropy(seed, index)
    words = [entropy >> shift & 0xFFFFFFFF for shift in (0, 32, 64, 96)]
    sys.modules["numpy.random"].seed(words)


class _AwaitsNumpy:
    """Seeds NumPy's legacy state when an item is the first to import it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find ``numpy.random`` as others do, and have it seeded when it has been loaded."""
        if name != "numpy.random":
            return None
        sys.meta_path.remove(self)
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_seed(module: ModuleType) -> None:
                load(module)
                if _item is not None:
                    _seed_numpy(*_item)

            spec.loader.exec_module = load_and_seed  # type: ignore[method-assign]
        return spec


_awaits_numpy = _AwaitsNumpy()


def restart_item() -> None:
    """Start the streams of the item at hand again, if it has any: it is tried again."""
    if _item is not None:
        seed_item(*_item)


def leave_items() -> None:
    """In a worker, after the items of a call with a seed: what comes next has none."""
    global _item, _generator
    _item = _generator = None
    random.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


def in_item() -> bool:
    """Whether an item with streams of its own runs now."""
    return _item is not None


def nested(seed: int) -> int:
    """Give the seed of a call that is made now: inside of an item, its path comes in."""
    return seed if _item is None else _hash(f"{_item[0]}:{_item[1]}/{seed}", 8)


class Kept:
    """At the end of a ``with`` block the streams are again what they were at its beginning."""

    def __enter__(self) -> None:
        self._item, self._generator = _item, _generator
        self._random = random.getstate()
        numpy = sys.modules.get("numpy.random")
        self._numpy: Any = None if numpy is None else numpy.get_state()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        global _item, _generator
        _item, _generator = self._item, self._generator
        random.setstate(self._random)
        numpy: Any = sys.modules.get("numpy.random")
        if self._numpy is not None:
            numpy.set_state(self._numpy)
        elif numpy is not None:  # loaded meanwhile: what was there before would have got this
            if _item is None:
                numpy.seed()
            else:
                _seed_numpy(*_item)
        if _item is None and _awaits_numpy in sys.meta_path:
            sys.meta_path.remove(_awaits_numpy)


def rng() -> numpy.random.Generator:
    """Give the NumPy generator of the item that runs now.

    In a task of a call with ``seed=`` its stream depends on the seed and the item's index
    only; repeated calls within an item give the same, advancing generator. Elsewhere it is
    a generator with fresh entropy.

    Returns
    -------
    numpy.random.Generator
        PCG64.

    Examples
    --------
    >>> import bireme
    >>> def draw(_):
    ...     return bireme.rng().normal()
    >>> bireme.map(draw, range(3), seed=7) == bireme.map(draw, range(3), seed=7, workers=1)
    True
    """
    global _generator
    import numpy

    if _item is None:
        return numpy.random.default_rng()
    if _generator is None:
        sequence = numpy.random.SeedSequence(_entropy(*_item))
        _generator = numpy.random.Generator(numpy.random.PCG64(sequence))
    return _generator
