"""Progress bars, by tqdm: in a terminal, a notebook, or a pipe."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme import _core

_INTERVAL = 0.1  # seconds between two looks


def bar(total: int | None) -> Any:
    """Make a bar over `total` items (`None`: unknown)."""
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install 'bireme[progress]'") from error

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread of tqdm's beside the caller's

    return Bar(total=total, unit="item")


def follow(outcome: _core.Outcome, shown: Any = None) -> None:
    """Show the progress of a map until it has ended; on a bar that others began, if given."""
    if shown is None:
        shown = bar(outcome._items())
    with shown:
        before = shown.n
        while not outcome.ready():
            outcome.wait(_INTERVAL)
            shown.update(before + outcome._ended() - shown.n)
        shown.update(before + outcome._items() - shown.n)
