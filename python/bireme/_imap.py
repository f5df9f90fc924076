"""Lazy maps: an iterator that reads its input only so far ahead."""

from __future__ import annotations

import itertools
import time

from bireme._result import AsyncResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Self

    from bireme import _core
    from bireme.pool import Pool


class _Refused:
    """The outcome of a chunk that could not be submitted."""

    def __init__(self, error: Exception, count: int) -> None:
        self._error = error
        self._count = count

    def ready(self) -> bool:
        return True

    def wait(self, timeout: float | None = None) -> None:
        return None

    def _cancel(self, running: bool) -> int:
        return 0

    def _outcomes(self) -> list[tuple[bool, Any]]:
        return [(False, self._error)] * self._count


class ItemIterator:
    """Results of `Pool.imap` or `imap_unordered`.

    The thread that takes a result also reads the input on; no other thread is involved.
    """

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
        self._input: Iterator[Any] = iter(iterable)
        self._total: int | None = getattr(iterable, "__len__", lambda: None)()
        self._star = star
        self._chunksize = chunksize
        self._ahead = ahead
        self._ordered = ordered
        self._settings = settings
        self._sent = 0
        self._running: list[_core.Outcome | _Refused] = []
        self._items: list[tuple[bool, Any]] = []  # of the chunk at hand, last first
        self._failure: BaseException | None = None  # what the input raised
        self._bar: Any = None
        self.feeding = True

    def start(self, progress: bool) -> None:
        """Submit the first chunks."""
        if progress:
            from bireme._progress import bar

            self._bar = bar(self._total)
        self._feed(self._ahead)

    def _feed(self, ahead: float) -> None:
        while self.feeding and len(self._running) < ahead:
            chunk: list[Any] = []
            try:
                chunk.extend(itertools.islice(self._input, self._chunksize))
            except BaseException as error:  # raised by the input: delivered in its place
                self._failure = error
                self._end_of_input()
                if not isinstance(error, Exception):
                    raise
                return
            if not chunk:
                self._end_of_input()
                return
            self._running.append(self._submit(chunk))
            self._sent += len(chunk)

    def _submit(self, chunk: list[Any]) -> _core.Outcome | _Refused:
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
        except Exception as error:  # it cannot travel: that is its outcome
            return _Refused(error, len(chunk))
        return outcome

    def _end_of_input(self) -> None:
        self.feeding = False
        self._pool._close_if_fed()

    def feed_all(self) -> None:
        """Submit all that is left, without a bound: the pool is being joined."""
        self._feed(float("inf"))

    def close(self) -> None:
        """Read no more of the input and take back what no worker has begun."""
        self._abandon(running=False)

    def _abandon(self, running: bool) -> None:
        self.feeding = False
        for outcome in self._running:
            outcome._cancel(running)
        self._running, self._items, self._failure = [], [], None
        if self._bar is not None:
            self._bar.close()
        self._pool._close_if_fed()

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
        """
        try:
            while not self._items:
                self._take_chunk(timeout)
        except KeyboardInterrupt:
            self._abandon(running=True)
            raise
        ok, value = self._items.pop()
        if self._bar is not None:
            self._bar.update()
        if ok:
            return value
        raise value

    def _take_chunk(self, timeout: float | None) -> None:
        if not self._running:
            self._feed(self._ahead)
        if not self._running:
            if self._failure is not None:
                error, self._failure = self._failure, None
                raise error
            if self._bar is not None:
                self._bar.close()
            raise StopIteration
        outcome = self._first() if self._ordered else self._any(timeout)
        if self._ordered:
            outcome.wait(timeout)
        if not outcome.ready():
            from bireme import errors

            raise errors.WaitTimeoutError("the next result is not there yet; its task goes on")
        self._running.remove(outcome)
        self._items = outcome._outcomes()[::-1]
        self._feed(self._ahead)

    def _first(self) -> _core.Outcome | _Refused:
        return self._running[0]

    def _any(self, timeout: float | None) -> _core.Outcome | _Refused:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            for outcome in self._running:
                if outcome.ready():
                    return outcome
            left = 0.05 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return self._running[0]
            self._client.wait_any(left)
