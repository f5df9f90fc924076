"""The pending result that the asynchronous calls of a pool give."""

from __future__ import annotations

from bireme import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class AsyncResult(_core.Outcome):
    """The pending result of `Pool.apply_async`, `map_async` or `starmap_async`."""

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        return self._attributes()

    _callback: Callable[[Any], object] | None = None
    _error_callback: Callable[[BaseException], object] | None = None

    def _call_back(self) -> None:
        try:
            value = self._value()
        except BaseException as error:
            if self._error_callback is not None:
                self._error_callback(error)
        else:
            if self._callback is not None:
                self._callback(value)

    def cancel(self, running: bool = False) -> bool:
        """Take the call back if no worker has begun it.

        Parameters
        ----------
        running : bool
            Also stop it if it runs: first by an exception in the task, then by SIGTERM,
            then by SIGKILL to that task's worker and its child processes; the worker is
            replaced, other tasks are untouched.

        Returns
        -------
        bool
            Whether the call, or a part of a map, was taken back or is being stopped. Its
            `get` then raises `CancelledError`.
        """
        return self._cancel(running) > 0

    def cancelled(self) -> bool:
        """Whether the call has ended because it was cancelled."""
        if not self.ready():
            return False
        try:
            self._value()
        except BaseException as error:
            return (
                type(error).__name__ == "CancelledError"
                and type(error).__module__ == "bireme.errors"
            )
        return False
