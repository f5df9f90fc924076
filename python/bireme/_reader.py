"""The reader of a lazy map's input, where that may wait for what the map's consumer does."""

from __future__ import annotations

import itertools
import os
import weakref
from _thread import allocate_lock, get_ident, start_new_thread

from bireme._remote import resource_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme._imap import ItemIterator

# Where the types are from of which the items are at hand: to read them waits for nobody.
_MODULES_OF_STORED = ("builtins", "collections", "numpy")

# Its branches share what they read, and two threads may not read it at a time.
_TEE: type = type(itertools.tee(())[0])

_at_work: list[tuple[int, str]] = []  # of each reader that has a thread: its process, its pool


def may_wait(iterable: Any) -> bool:
    """Whether to read it may take long, or may wait for what becomes of the results."""
    kind = type(iterable)
    if kind is _TEE:
        return False
    return not hasattr(kind, "__len__") or kind.__module__ not in _MODULES_OF_STORED


def at_work() -> list[str]:
    """Name the pools of which an input is just being read in a thread."""
    return [pool for process, pool in list(_at_work) if process == os.getpid()]


class Reader:
    """Reads and submits in a thread, which lives only while there is something to be read.

    It does not hold the lazy map while its input is waited for: that may be dropped meanwhile.

    Parameters
    ----------
    items : ItemIterator
        Whose input this is.
    """

    def __init__(self, items: ItemIterator) -> None:
        self._items = weakref.ref(items)
        self._pool = items._pool.name
        self._asked = False
        self._at_it = allocate_lock()
        self._thread = 0  # who has it
        self._news = allocate_lock()  # free when something was read that nobody has waited for
        self._news.acquire()

    def start(self) -> None:
        """See that what is wanted of the input is read; if there can be no thread, by nobody."""
        if not (self._asked or self._at_it.locked()):
            self._asked = True
            self._start()

    def _start(self) -> RuntimeError | None:
        try:
            start_new_thread(self._run, ())
        except RuntimeError as error:
            self._asked = False
            return error
        return None

    def is_this_thread(self) -> bool:
        """Whether it is the calling thread that reads."""
        return self._at_it.locked() and self._thread == get_ident()

    def wait(self, seconds: float) -> None:
        """Wait until something was read, at most so long."""
        if self._news.acquire(timeout=seconds) or self._at_it.locked():
            return
        # A signal handler may have come while the thread was to be started, and wait here.
        failure = self._start()
        if failure is not None:
            raise resource_error(f"the input cannot be read: {failure}") from failure

    def _run(self) -> None:
        self._asked = False
        while self._at_it.acquire(False):
            self._thread = get_ident()
            entry = os.getpid(), self._pool
            _at_work.append(entry)
            while self._read_on():
                pass
            _at_work.remove(entry)
            self._at_it.release()
            # Who took a result just before that release saw somebody at it.
            items = self._items()
            if items is None or not items.wants():
                break

    def _read_on(self) -> bool:
        """Read and submit a chunk if one is wanted."""
        items = self._items()
        if items is None or not items.wants():
            return False
        source, size = items.source, items.chunksize
        del items
        chunk: list[Any] = []
        error: BaseException | None = None
        try:
            chunk = list(itertools.islice(source, size))
        except BaseException as raised:
            error = raised
        del source
        items = self._items()
        if items is None:
            return False
        try:
            items.take_in(chunk, error)
        except BaseException as raised:  # an item asked for the end of the program when pickled
            items.take_in([], raised)
        try:
            self._news.release()
        except RuntimeError:  # those before have not been noticed either
            pass
        return True
