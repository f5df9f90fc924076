"""What a test may leave behind in its own process: nothing."""

from __future__ import annotations

import gc
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import descendants
from tests.support.waiting import poll

_OF_A_LIVING_POOL = re.compile("bireme-(arena|dispatch|supervis)")
_SHARED = re.compile(r"\S+\s+\S+\s+\S+\s+\S+\s+\S+\s+(/memfd:\S*|/dev/shm/\S*|/dev/zero\S*)")


@dataclass
class Snapshot:
    """Processes, threads, descriptors and shared mappings at one moment, each with a name.

    Names in `/dev/shm` are no part of it, since they may be anybody's.
    """

    processes: Counter[str] = field(default_factory=Counter)
    threads: Counter[str] = field(default_factory=Counter)
    descriptors: Counter[str] = field(default_factory=Counter)
    mappings: Counter[str] = field(default_factory=Counter)


def take_snapshot() -> Snapshot:
    """Return what this process holds just now."""
    shot = Snapshot()
    for process in descendants(os.getpid(), zombies=True):
        shot.processes["zombie" if process.is_zombie else process.name] += 1
    for task in os.listdir("/proc/self/task"):
        try:
            shot.threads[Path(f"/proc/self/task/{task}/comm").read_text().strip()] += 1
        except OSError:
            continue
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # the descriptor of this very listing
        shot.descriptors[re.sub(r"\d+", "N", target)] += 1
    for line in Path("/proc/self/maps").read_text().splitlines():
        if match := _SHARED.match(line):
            shot.mappings[match[1]] += 1
    return shot


def growth(before: Snapshot, after: Snapshot, *, pool_lives: bool = False) -> list[str]:
    """Return one line for every kind of thing of which `after` has more than `before`.

    Counts are compared, not identities: a thread that was stopped and started again, or a worker
    of a longer-lived pool that was replaced, is no leak. Such a pool may also have got more arena
    segments, which it keeps warm, and a dispatcher, which stays for a while: `pool_lives` leaves
    them out.
    """
    lines = []
    for kind in ("processes", "threads", "descriptors", "mappings"):
        old, new = getattr(before, kind), getattr(after, kind)
        if pool_lives:
            old, new = _without_growth_of_a_pool(old), _without_growth_of_a_pool(new)
        if new.total() > old.total():
            more = ", ".join(f"{count} x {name}" for name, count in (new - old).items())
            lines.append(f"{kind}: {old.total()} -> {new.total()} (new: {more})")
    return lines


def _without_growth_of_a_pool(things: Counter[str]) -> Counter[str]:
    return Counter({name: n for name, n in things.items() if not _OF_A_LIVING_POOL.search(name)})


def wait_for_no_growth(
    before: Snapshot, *, timeout: float = 5.0, pool_lives: bool = False
) -> list[str]:
    """Return what is left over once things had `timeout` seconds to go away."""

    def clean() -> bool:
        return not growth(before, take_snapshot(), pool_lives=pool_lives)

    if clean():
        return []
    gc.collect()
    if poll(clean, timeout=timeout):
        return []
    return growth(before, take_snapshot(), pool_lives=pool_lives)
