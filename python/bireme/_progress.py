"""Progress bars, by tqdm: in a terminal, a notebook, or a pipe."""

from __future__ import annotations

from bireme._remote import room
from bireme._result import AsyncResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme import _core

_INTERVAL = 0.1  # seconds between two looks


def bar(total: int | None) -> Any:
    """Make a bar over `total` items (`None`: unknown)."""
    try:
        with room("the progress bar"):
            from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install 'bireme[progress]'") from error

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread of tqdm's beside the caller's

    return Bar(total=total, unit="item")


def follow(outcome: _core.Outcome, shown: Any) -> None:
    """Move a bar on while a map runs; the thread that waits for it does so."""
    before = shown.n
    while not outcome.ready():
        outcome.wait(_INTERVAL)
        shown.update(before + outcome._ended() - shown.n)
    shown.update(before + outcome._ended() - shown.n)


class ShownResult(AsyncResult):
    """The result of a map with a bar that moves though nobody waits: the pool's dispatcher sees to it."""

    _bar: Any

    def _advance(self) -> None:
        self._bar.update(self._ended() - self._bar.n)

    def _call_back(self) -> None:
        try:
            self._advance()
            self._bar.close()
        finally:
            super()._call_back()
