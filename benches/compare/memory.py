"""Memory of a tree of processes: the proportional set size, in which a page shared by n processes counts 1/n each."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def tree(root: int) -> list[int]:
    """Return `root` and all processes below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # ended between the listing and the reading
                continue
            parents[int(entry.name)] = int(fields[1])
    found = [root]
    for pid in found:  # grows while it is walked: breadth first
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def tree_pss(root: int, kinds: tuple[str, ...] = ("Pss",)) -> int:
    """Return the proportional set size in bytes of `root` and all processes below it.

    `kinds` are lines of ``smaps_rollup``: ``Pss`` is all of it, ``Pss_Anon``, ``Pss_File`` and ``Pss_Shmem`` its parts.
    """
    total = 0
    for pid in tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(
            int(line.split()[1]) * 1024 for line in lines if line.partition(":")[0] in kinds
        )
    return total


def footprint(root: int) -> int:
    """Return the bytes of memory behind a tree: its own pages, and all shared memory of the system.

    A tmpfs file or memfd is in memory whether or not somebody has mapped and touched it, so what PSS says of shared
    pages would flatter whoever maps them late. Only differences of this figure mean something.
    """
    facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return tree_pss(root, ("Pss_Anon", "Pss_File")) + int(facts["Shmem"].split()[0]) * 1024


@dataclass(slots=True)
class Watch:
    """What `peak_footprint` saw: bytes before, and at the peak."""

    before_bytes: int
    peak_bytes: int

    @property
    def extra_bytes(self) -> int:
        """Growth from the start to the peak."""
        return self.peak_bytes - self.before_bytes


@contextmanager
def peak_footprint(interval_s: float = 0.02) -> Iterator[Watch]:
    """Sample the tree below this process while the body runs.

    A reading walks the page tables of every process, so the body must not be timed.
    """
    root = os.getpid()
    before = footprint(root)
    watch = Watch(before, before)
    done = threading.Event()

    def sample() -> None:
        while not done.wait(interval_s):
            watch.peak_bytes = max(watch.peak_bytes, footprint(root))

    sampler = threading.Thread(target=sample, name="memory-sampler", daemon=True)
    sampler.start()
    try:
        yield watch
    finally:
        watch.peak_bytes = max(watch.peak_bytes, footprint(root))
        done.set()
        sampler.join()
