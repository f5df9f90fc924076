"""Lazy maps: an iterator that reads its input only so far ahead.

Threads may share one. What they have in common are lists and counters of which each single step is
atomic under the GIL: one thread claims an item, and one removes a chunk. No lock is held while
somebody waits or while a result is decoded. Only the input is read, and what it gives submitted, under
a lock; nobody waits for that lock while there is a result to take or to wait for.

An input whose items are at hand is read by the threads that take the results. Another one may wait
for what they do: it has a reader of its own.
"""

from __future__ import annotations

import itertools
import sys
import time
from _thread import RLock
from collections import deque

from bireme import _checks, errors
from bireme._progress import bar
from bireme._remote import room
from bireme._result import AsyncResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Never, Self

    from bireme import _core
    from bireme._reader import Reader
    from bireme.pool import Pool

# Longest wait for other threads, which may have ended what was waited for in another way.
_SLICE_S = 0.05


class _Chunk:
    """Items that were submitted together, and which of them no thread has claimed.

    The last one belongs to the thread that removes the chunk from those that run.

    Parameters
    ----------
    size : int
        Number of items.
    outcome : Outcome, optional
        What will hold their outcomes.
    error : Exception, optional
        Why there is none: they could not be submitted.
    """

    __slots__ = ("_items", "_outcome", "unclaimed")

    def __init__(
        self, size: int, outcome: _core.Outcome | None, error: Exception | None = None
    ) -> None:
        self.unclaimed = iter(range(size - 1))
        self._outcome = outcome
        self._items: list[Any] | None = None if error is None else [(False, error)] * size

    def ready(self) -> bool:
        outcome = self._outcome
        return outcome is None or outcome.ready()

    def wait(self, timeout: float) -> None:
        outcome = self._outcome
        if outcome is not None:
            outcome.wait(timeout)

    def cancel(self, running: bool) -> None:
        outcome = self._outcome
        if outcome is not None:
            outcome._cancel(running)

    def take(self, index: int) -> tuple[bool, Any]:
        """Give the outcome of an item that the calling thread has claimed; nothing keeps it here."""
        outcome = self._outcome
        items = self._items
        if items is None:  # then there was an outcome, when it was looked at before
            items = self._items = outcome._outcomes()  # type: ignore[union-attr]
            self._outcome = None
        item: tuple[bool, Any] = items[index]
        items[index] = None  # type: ignore[call-overload]
        return item


_NOTHING = _Chunk(1, None)  # all of it is claimed


class ItemIterator:
    """Results of `Pool.imap` or `imap_unordered`.

    Threads may share the iterator: each result is given to one of them.
    """

    feeding = False  # until it is made
    _kept = False  # by its pool: nobody else has it, its results are for nobody

    def __init__(
        self,
        pool: Pool,
        client: _core.Client,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        star: bool,
        chunksize: int,
        ahead: int,
        ordered: bool,
        settings: dict[str, Any],
    ) -> None:
        self._pool = pool
        self._client = client
        self._func = func
        self.source: Iterator[Any] = iter(iterable)
        self._reader: Reader | None = None
        self._input_lock = RLock()  # who has it reads on, submits, counts in `_sent`
        self._reading = False  # it is at it: a signal handler, or the input itself, may come again
        self._total = _length(iterable)
        self._star = star
        self.chunksize = chunksize
        self._ahead = ahead
        self._most: float = ahead  # chunks that may run
        self._ordered = ordered
        self._settings = settings
        self._sent = 0
        self._running: deque[_Chunk] = deque()  # those with items that nobody has claimed
        self._at_hand = _NOTHING  # one of these that has ended, or was one of these
        # What the input raised: one at most. `None`: the pool was terminated before it was read.
        self._failures: list[BaseException | None] = []
        self._bar: Any = None
        # Once `False`, nothing is added to what was submitted and to `_failures`.
        self.feeding = True
        self._abandoned = False
        self._asked = False  # for a result
        self._runs_unseen = False

    def __del__(self) -> None:
        if not self.feeding or sys.is_finalizing():
            return
        try:
            self._client.check_owner()
        except errors.ForkedError:
            return
        if self._runs_unseen and not self._asked:
            self._run_unseen()
        else:
            self.feeding = False
            self._pool._close_if_fed()

    def _run_unseen(self) -> None:
        """Run what is left for nobody: who drops the map before asking for a result wants it done."""
        self._kept, self._most = True, float("inf")
        self._pool._kept.add(self)
        self._running.clear()
        if self._reader is None:
            from bireme._reader import Reader

            self._reader = Reader(self)
        self._reader.start()

    def start(self, progress: bool, reader: bool, runs_unseen: bool) -> None:
        """Submit the first chunks.

        Parameters
        ----------
        progress : bool
            Whether to show a bar.
        reader : bool
            Whether the input is read in a thread of its own.
        runs_unseen : bool
            Whether all of it is to run should nobody ever ask for a result.
        """
        self._runs_unseen = runs_unseen
        if progress:
            self._bar = bar(self._total)
        if reader:
            from bireme._reader import Reader

            self._reader = Reader(self)
        self._feed()

    # The input -------------------------------------------------------------------------

    def wants(self) -> bool:
        """Whether more of the input is to be read now."""
        return self.feeding and len(self._running) < self._most

    def _feed(self) -> None:
        """Read on, or see that it is done, unless another thread is at it: that one looks again."""
        if self._reader is not None:
            if self.feeding and 2 * len(self._running) <= self._most:
                self._reader.start()
            return
        while not self._reading and self.wants() and self._input_lock.acquire(False):
            try:
                if self.wants():
                    self._reading = True
                    self._feed_chunk()
            finally:
                self._reading = False
                self._input_lock.release()

    def _feed_chunk(self) -> None:
        error = None
        try:
            chunk = list(itertools.islice(self.source, self.chunksize))
        except Exception as raised:
            error, chunk = raised, []
        except BaseException:
            self._end_of_input()
            raise
        self.take_in(chunk, error)

    def take_in(self, chunk: list[Any], error: BaseException | None) -> None:
        """Submit what was read; what the input raised is delivered instead of its last chunk."""
        if not self.feeding:  # closed or terminated meanwhile
            return
        if error is not None:
            self._failures.append(error)
        if chunk:
            self._submit(chunk)
        if self._abandoned:
            self._abandon(running=False)
        elif len(chunk) < self.chunksize:
            self._end_of_input()

    def _submit(self, chunk: list[Any]) -> None:
        try:
            outcome: _core.Outcome = self._client.map(
                AsyncResult,
                self._func,
                chunk,
                self._star,
                len(chunk),
                base=self._sent,
                **self._settings,
            )
        except Exception as error:
            if not self.feeding:  # the pool was terminated just then, and has said so
                return
            if self._most == float("inf") and self._client.broken() is not None:
                self._end_of_input()  # it may be endless, and nobody waits for what comes of it
                return
            if len(chunk) > 1:  # one of them cannot travel
                for item in chunk:
                    self._submit([item])
                return
            submitted = _Chunk(1, None, error)
        else:
            submitted = _Chunk(len(chunk), outcome)
        if not self._kept:
            self._running.append(submitted)
        self._sent += len(chunk)

    def _end_of_input(self) -> None:
        self.feeding = False
        self._pool._kept.discard(self)
        self._pool._close_if_fed()

    def _await_input(self, deadline: float | None) -> None:
        """Wait a moment while another thread reads the input."""
        self._client.drain()  # raises in a forked child, where that thread is not
        again = False
        if self._reader is not None:
            again = self._reader.is_this_thread()
            if not again:
                self._reader.wait(_slice_s(deadline))
        elif self._input_lock.acquire(timeout=_slice_s(deadline)):
            again = self._reading
            self._input_lock.release()
        if again:
            raise RuntimeError(
                "what is just being read from the input of this iterator asks it for a result "
                "that depends on more input; let the input not use its own results"
            )

    def feed_all(self) -> None:
        """Submit all that is left, without a bound: the pool is being joined."""
        self._most = float("inf")
        while self.feeding:
            self._feed()
            if self.feeding:
                self._await_input(None)

    def terminate(self) -> None:
        """Read no more of the input: its pool is terminated. After what was submitted, that is raised."""
        if self.feeding:
            if self._total is None or self._sent < self._total:
                self._failures.append(None)
            self.feeding = False
            self._pool._kept.discard(self)

    def close(self) -> None:
        """Read no more of the input and take back what no worker has begun."""
        self._abandon(running=False)

    def _abandon(self, running: bool) -> None:
        self.feeding, self._abandoned = False, True
        while self._running:
            try:
                chunk = self._running.pop()
            except IndexError:  # another thread took the last one
                break
            chunk.cancel(running)
        self._at_hand = _NOTHING
        self._failures.clear()
        if self._bar is not None:
            self._bar.close()
        self._pool._close_if_fed()

    # Results ---------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Give the next result, or raise what its item raised.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait.

        Raises
        ------
        StopIteration
            When there are no more.
        WaitTimeoutError
            When the time is over; the iterator goes on.
        KeyboardInterrupt
            On Ctrl-C, which also stops what runs for this iterator: it has no more results.

        Notes
        -----
        Any thread may call it. Each result is given once, those of `imap` in order.
        """
        self._asked = True
        deadline = _checks.wait("timeout", timeout)
        if deadline is not None:
            deadline += time.monotonic()
        try:
            ok, value = self._take(deadline)
        except KeyboardInterrupt:
            self._abandon(running=True)
            raise
        if self._bar is not None:
            self._show(1)
        if ok:
            return value
        raise value

    def _take(self, deadline: float | None) -> tuple[bool, Any]:
        """Claim an item of a chunk that has ended, and give its outcome."""
        chunk = self._at_hand
        index = next(chunk.unclaimed, None)
        while index is None:
            feeding = self.feeding  # looked at first: what is added before it ends is not missed
            ended = self._ended_chunk(deadline)
            if ended is None:
                if not feeding:
                    self._stop()
                self._feed()
                if not self._running and self.feeding:
                    self._await_input(deadline)
                continue
            chunk = self._at_hand = ended
            index = next(chunk.unclaimed, None)
            if index is None:
                try:
                    self._running.remove(chunk)
                except ValueError:  # another thread was faster
                    continue
                item = chunk.take(-1)
                self._feed()
                return item
        return chunk.take(index)

    def _ended_chunk(self, deadline: float | None) -> _Chunk | None:
        """Wait for a chunk to end, the first one or any; `None` if there are none."""
        # Many are there only when the pool is being joined.
        most = 1 if self._ordered else self._ahead
        while self._running:
            try:
                running = list(itertools.islice(self._running, most))
            except RuntimeError:  # another thread changed it just then
                continue
            for chunk in running:
                if chunk.ready():
                    return chunk
            slice_s = _slice_s(deadline)
            if not self._ordered:
                self._client.wait_any(slice_s)
            elif running:
                running[0].wait(slice_s)
        return None

    def _stop(self) -> Never:
        try:
            failure = self._failures.pop()
        except IndexError:  # there was none, or another caller got it
            if self._bar is not None:
                self._show(0)
            raise StopIteration from None
        if failure is None:
            try:
                with room("the pool was terminated, and the error of this map"):
                    text = "the pool was terminated before all of the input was read"
                    failure = errors.CancelledError(text)
            except BaseException:
                self._failures.append(None)
                raise
        raise failure

    def _show(self, given: int) -> None:
        self._bar.update(given)
        if not self.feeding and self._bar.n >= self._sent:
            self._bar.close()


def _length(iterable: Any) -> int | None:
    """Give the number of items if it is known."""
    try:
        return len(iterable)
    except Exception:  # the user's own, which need not work: only its items are wanted
        return None


def _slice_s(deadline: float | None) -> float:
    """Give the seconds to wait until the next look; raise when the time is over."""
    if deadline is None:
        return _SLICE_S
    left = deadline - time.monotonic()
    if left > 0:
        return min(left, _SLICE_S)
    with room("the wait is over, and its error"):
        error = errors.WaitTimeoutError("the next result is not there yet; its task goes on")
    raise error
