"""Deaths at every fail point: `python -m tests.stress.fail_points METHOD [GROUP ...]`.

Runs in an interpreter whose `bireme` is the build with fail points (`make test` makes it, in
`build/fail-points`; `test_fail_points.py` starts it). The points of a group have the first part of
their name in common. For each a pool gets a mix of tasks while workers die there (all, or every other
one). It must hold that

- somebody died at the point;
- every task has ended once, with its value or with `WorkerDiedError`, and no oftener than deaths explain;
- no task was begun more often than its retries allow;
- the pool is whole afterwards, and no argument block and no byte is still counted for the dead.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import bireme
from tests.stress.chaos import Ledger, begin, gather
from tests.support.processes import kill_descendant
from tests.support.waiting import GENEROUS, poll

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = "BIREME_FAIL_POINTS"
GROUPS = (
    *("template", "birth", "claim", "wake", "begin", "progress", "segment", "arena", "result"),
    *("finish", "notify", "release", "spin", "sleep", "leave"),
)
WORKERS = 3
#: Passes after which a worker dies, where it does not come by with every task.
PASSES = {"template": 5, "birth": 1, "segment": 1, "arena": 2, "leave": 1, "wake": 1} | {
    "claim.wake": 1,
    "result.bytes": 3,
    "arena.shrink": 1,
    "notify.call": 3,
    "finish.bell": 1,
    "release": 3,
    "spin": 5,
    "sleep": 5,
}
PASSES_OF_A_TASK = 150
#: Steps that few workers come to.
RARE = (".wake", ".word", ".call", ".bell", ".shrink")
SMALL = 1500
LARGE = 24
LUCK = 20.0  # seconds
#: Functions that the pool has sent, each in a block that it keeps.
FUNCTIONS = 4


def square(ledger: str, index: int) -> tuple[int, int]:
    begin(ledger, index)
    return index, index * index


def turn(ledger: str, index: int, array: np.ndarray) -> tuple[int, int, float, np.ndarray]:
    """Take a large argument and give a large result."""
    begin(ledger, index)
    return index, index * index, float(array.sum()), array[::-1] + 1


def nap(item: int) -> int:
    """Take long over the first items: who has them hands the rest back to idle neighbours."""
    if item < 40:
        time.sleep(0.002)
    return item


def large(index: int) -> np.ndarray:
    """Return several megabytes, of changing length, so that arenas grow."""
    return np.full(200_000 + 50_000 * (index % 8), float(index))


class Plan:
    """What the processes born from now on die of; the file that their fail points read."""

    def __init__(self, folder: Path) -> None:
        self.plan, self.deaths = folder / "plan", folder / "deaths"

    def arm(self, point: str, passes: int, every: int) -> None:
        self.deaths.write_text("")
        self.plan.write_text(f"{point} {passes} {every}")

    def disarm(self) -> None:
        self.plan.write_text("")

    def dead_at(self, point: str) -> int:
        """Return how many processes died at `point`, and fail if one did elsewhere."""
        names = [line.split()[0] for line in self.deaths.read_text().splitlines()]
        assert set(names) <= {point}, f"deaths elsewhere: {set(names)}"
        return len(names)


def run_point(plan: Plan, point: str, start_method: str) -> str:
    """Have workers die at one point and check every promise; say what happened."""
    began = time.monotonic()
    passes = PASSES.get(point) or PASSES.get(point.split(".")[0], PASSES_OF_A_TASK)
    plan.arm(point, passes, every=2 if passes == 1 and not point.endswith(RARE) else 1)
    served = 150 if point.startswith(("leave", "template")) else None
    pool = bireme.Pool(WORKERS, start_method=start_method, maxtasksperchild=served)
    try:
        if point.startswith("template"):
            kill_descendant(pool._client.template_pid())  # the next one reads the plan
        run_unwatched(pool)  # first: a waiter leaves its wish behind
        ended = died = 0
        for retries in (0, 2):
            ends = run_tasks(pool, retries)
            ended += len(ends)
            died += sum(end is None for end in ends.values()) * (1 + retries)
            del ends
        if point == "arena.shrink":
            time.sleep(6)  # a worker gives memory back after five idle seconds
        run_chunks(pool)
        # Some steps need luck: somebody must sleep, or the client be late.
        poll(lambda: run_idle(pool) or plan.dead_at(point), timeout=LUCK)
        dead = plan.dead_at(point)
        assert died <= dead, f"{died} deaths blamed on tasks, {dead} were there"
        assert dead, f"nobody died: {pool.statistics()}"
        plan.disarm()
        if point.startswith("template"):
            kill_descendant(pool._client.template_pid())  # this one would still follow the plan
        make_whole(pool)
        pool.close()
    except BaseException as error:
        error.add_note(str(pool.statistics()))
        pool.terminate()
        raise
    pool.join()
    return (
        f"{point:18} {dead:4} died, {died:4} of {ended} tasks hit, {time.monotonic() - began:.1f} s"
    )


def run_hopeless(plan: Plan, start_method: str) -> str:
    """Workers killed before they do anything, one after the other, are told of; the pool goes on."""
    plan.arm("birth.work", 1, every=1)
    pool = bireme.Pool(2, start_method=start_method)
    told = ""
    try:
        pool.options(retries=50).apply_async(abs, (-1,)).get(GENEROUS)
    except bireme.WorkerDiedError as error:
        told = str(error)
        plan.disarm()
        assert pool.options(retries=50).apply(abs, (-1,)) == 1
    finally:
        pool.terminate()
        pool.join()
    assert "as soon as they are ready" in told, told or "a pool whose workers all die gave a result"
    return f"given up after {plan.dead_at('birth.work')} workers died"


def run_tasks(pool: bireme.Pool, retries: int) -> dict[int, Any]:
    """Run small and large tasks mixed; give and check how each ended."""
    count = SMALL + LARGE
    with Ledger(count) as ledger:
        small = ((square, (ledger.path, index)) for index in range(SMALL))
        big = ((turn, (ledger.path, SMALL + i, large(i))) for i in range(LARGE))
        ends = gather(pool.options(retries=retries), mixed(small, big), count)
        counts = Counter(ledger.counts())
    assert max(counts) <= 1 + retries, f"a task was begun {max(counts)} times"
    for index, end in ends.items():
        if end is None:
            continue
        assert end[:2] == (index, index * index), f"task {index} ended with {end[:2]}"
        if index >= SMALL:
            array = large(index - SMALL)
            assert end[2] == array.sum(), f"task {index} saw another array"
            assert np.array_equal(end[3], array[::-1] + 1), f"task {index} gave another array"
    return ends


def mixed(small: Iterator[Any], big: Iterator[Any]) -> Iterator[Any]:
    """Take one of `big` after each few of `small`."""
    for index, task in enumerate(small):
        yield task
        if index % (SMALL // LARGE) == 0:
            yield from (one for one in [next(big, None)] if one is not None)
    yield from big


def run_chunks(pool: bireme.Pool) -> None:
    """Items under a time limit, which workers note one by one."""
    timed = pool.options(retries=50, task_timeout=GENEROUS).map_async(abs, range(-2000, 0), 20)
    assert timed.get(GENEROUS) == list(range(2000, 0, -1))


def run_unwatched(pool: bireme.Pool) -> None:
    """Chunks that are cut anew while nobody waits: workers ring for the rest to be queued."""
    poll(lambda: pool.statistics()["births"] >= WORKERS, timeout=5)  # some may die as they are born
    chunks = pool.options(retries=50).map_async(nap, range(300))
    assert poll(chunks.ready)
    assert chunks.get(GENEROUS) == list(range(300))


def run_idle(pool: bireme.Pool) -> None:
    """Bursts after pauses, in which workers spin and go to sleep."""
    for pause in (0.0005, 0.002, 0.005) * 10:
        time.sleep(pause)
        burst = pool.options(retries=50).map_async(abs, range(-40, 0), 1)
        assert burst.get(GENEROUS) == list(range(40, 0, -1))


def make_whole(pool: bireme.Pool) -> None:
    """End every worker that may still die by plan; then nothing of the dead may be left."""
    doomed = pool.worker_pids()
    for pid in doomed:
        kill_descendant(pid)
    assert poll(lambda: len(set(pool.worker_pids()) - set(doomed)) == WORKERS), "not whole"
    figures = pool.statistics()
    gc.collect()
    assert figures["outstanding"] == 0, figures
    left = poll(lambda: pool.statistics()["argument_blocks"] <= FUNCTIONS)
    assert left, f"argument blocks were left: {pool.statistics()}"
    counted, held = pool.statistics()["arena_bytes"], own_arena_bytes()
    assert counted <= held, f"{counted} bytes counted, {held} bytes held"
    assert pool.map_async(abs, range(-2000, 0), 7).get(GENEROUS) == list(range(2000, 0, -1))


def own_arena_bytes() -> int:
    """Return the bytes of all arena segments that this process has open."""
    sizes = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            if "bireme-arena" in os.readlink(f"/proc/self/fd/{number}"):
                status = os.stat(f"/proc/self/fd/{number}")
                sizes[status.st_ino] = status.st_blocks * 512
        except OSError:
            continue
    return sum(sizes.values())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=["template", "fork", "spawn", "forkserver"])
    parser.add_argument("groups", nargs="*", choices=[[], *GROUPS], default=[])
    options = parser.parse_args(arguments)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="bireme-fail-points-") as folder:
        os.environ[FOLDER] = folder
        plan = Plan(Path(folder))
        for group in options.groups or GROUPS:
            for point in points_of(group):
                try:
                    told = run_point(plan, point, options.method)
                except Exception as error:
                    notes = " ".join(getattr(error, "__notes__", []))
                    told = f"{point:18} FAILED: {type(error).__name__}: {error} {notes}"
                    failed += 1
                print(told, flush=True)
            if group == "birth":
                print(run_hopeless(plan, options.method), flush=True)
    return 1 if failed else 0


def points_of(group: str) -> list[str]:
    """Return the points of a group, in the order in which a worker meets them."""
    from bireme import _core

    every: list[str] = _core.fail_points()
    strangers = {point for point in every if point.split(".")[0] not in GROUPS}
    assert not strangers, f"GROUPS lacks {strangers}"
    return [point for point in every if point.split(".")[0] == group]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
