"""Tasks that write into the control segment of their pool, as a wild pointer would.

Where things lie is said in `crates/shm/src/control.rs`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct

from bireme import _core

_HEADER_BYTES = 512
_ROW_BYTES = 128
_SPINNER_AT = 192


def _control() -> mmap.mmap:
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "bireme-control" in os.readlink(f"/proc/self/fd/{fd}"):
                return mmap.mmap(int(fd), os.fstat(int(fd)).st_size)
    raise LookupError("no control segment")


def _sleepers_at(control: mmap.mmap) -> int:
    (rows,) = struct.unpack_from("<I", control, 12)
    return _HEADER_BYTES + rows * _ROW_BYTES


def _own_word_at(control: mmap.mmap) -> int:
    (slots,) = struct.unpack_from("<I", control, 8)
    first = _sleepers_at(control) + 64 + slots // 8
    index = (_core.current_task()[0] & 0xFFFFFFFF) - 1
    return first + index * ((len(control) - first) // slots)


def take_spinner_for_ever() -> None:
    """Take the role as one who is stopped while he holds it: nobody gives it back."""
    struct.pack_into("<I", _control(), _SPINNER_AT, 1)


def announce_nobody() -> None:
    """Say that a row sleeps which does not exist."""
    control = _control()
    at = _sleepers_at(control)
    (bits,) = struct.unpack_from("<Q", control, at)
    struct.pack_into("<Q", control, at, bits | 1 << 63)


def change_own_word(*, state: int | None = None, worker: int | None = None) -> None:
    """Have the slot of this task say something else than that this worker runs it."""
    control = _control()
    at = _own_word_at(control)
    if state is not None:
        struct.pack_into("<B", control, at + 1, state)
    if worker is not None:
        struct.pack_into("<H", control, at + 2, worker)
