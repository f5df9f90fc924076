"""Standard output and error of a worker: whole lines, one system call each."""

from __future__ import annotations

import io
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class LineStream(io.TextIOWrapper):
    """A text stream that writes each line in one piece, and an unfinished one at the task's end.

    What goes through its ``buffer``, or to the descriptor itself, is written as it comes.

    Parameters
    ----------
    number : int
        The descriptor; it is not closed.
    """

    def __init__(self, number: int) -> None:
        raw: Any = io.FileIO(number, "w", closefd=False)
        super().__init__(raw, encoding="utf-8", errors="backslashreplace", write_through=True)
        self._number = number
        self._rest = ""  # of the line that has no end yet
        self._open_line = False  # such a line was flushed

    def write(self, text: str, /) -> int:
        """Write the whole lines of `text`; keep the rest."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        head, newline, rest = text.rpartition("\n")
        if newline:
            self._send(f"{self._rest}{head}\n")
            self._rest, self._open_line = rest, False
        else:
            self._rest += text
        return len(text)

    def _send(self, text: str) -> None:
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        while data:
            data = data[os.write(self._number, data) :]

    def flush(self) -> None:
        """Write what is kept."""
        if self._rest:
            self._send(self._rest)
            self._rest, self._open_line = "", True

    def end_task(self) -> None:
        """End the line that the task left open; it is lost if the task has closed the descriptor."""
        if self._rest or self._open_line:
            try:
                self.write("\n")
            except OSError:
                self._rest, self._open_line = "", False
