"""The long run: `python -m tests.stress.soak [--scale X] [--only NAME] [--seed N]`.

Each part prints one line and raises at the first broken promise. ``--scale 0.01`` makes a rehearsal.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import bireme
from tests.stress.chaos import run_chaos
from tests.support.leaks import growth, take_snapshot, wait_for_no_growth
from tests.support.processes import descendants
from tests.support.scripts import WITH_TASKS, run_script
from tests.support.waiting import GENEROUS, poll

if TYPE_CHECKING:
    from collections.abc import Callable


def nothing(_: object = None) -> None:
    """Do nothing."""


def chaos(scale: float, seed: int) -> str:
    """100,000 tasks under random kills, then shorter runs of every other kind."""
    reports = [run_chaos(int(100_000 * scale), seed=seed)]
    for kind, retries in (("imap", 0), ("imap", 5), ("bytes", 0), ("apply_async", 20)):
        reports.append(run_chaos(int(10_000 * scale), seed=seed + 1, kind=kind, retries=retries))
    for method, interval in (("fork", 0.01), ("spawn", 0.3), ("forkserver", 0.3)):
        reports.append(
            run_chaos(int(5_000 * scale), seed=seed + 2, start_method=method, interval=interval)
        )
    return "; ".join(map(str, reports))


def pools(scale: float, seed: int) -> str:
    """10,000 pools in a row, some closed, some terminated, some just dropped."""
    count = int(10_000 * scale)
    _one_pool(0)
    before = take_snapshot()
    for i in range(count):
        _one_pool(i)
        if i % 500 == 499:
            left = wait_for_no_growth(before)
            assert not left, f"after {i + 1} pools: {left}"
    left = wait_for_no_growth(before)
    assert not left, left
    return f"{count} pools"


def _one_pool(i: int) -> None:
    pool = bireme.Pool(2)
    assert pool.map_async(abs, [-i, i]).get(GENEROUS) == [i, i]
    if i % 3 == 0:
        pool.close()
        pool.join()
    elif i % 3 == 1:
        pool.terminate()
        pool.join()
    del pool
    gc.collect(0)


def cancels(scale: float, seed: int) -> str:
    """10,000 cancels at random moments: each task ends once, and no bystander is hit."""
    count, dice = int(10_000 * scale), random.Random(seed)
    ended = {"done": 0, "cancelled": 0}
    with bireme.Pool(3) as pool:
        for i in range(count):
            result = pool.apply_async(time.sleep, (dice.random() * 0.004,))
            bystander = pool.apply_async(abs, (-i,))
            time.sleep(dice.random() * 0.003)
            result.cancel(running=dice.random() < 0.8)
            try:
                result.get(GENEROUS)
                ended["done"] += 1
            except bireme.CancelledError:
                ended["cancelled"] += 1
            assert bystander.get(GENEROUS) == i
        assert poll(lambda: len(pool.worker_pids()) == 3)
    pool.join()
    assert sum(ended.values()) == count
    return f"{count} cancels: {ended}"


_PRINTER = """
    import sys
    import bireme

    def work(start):
        for i in range(start, start + 1000):
            print(i)

    with bireme.Pool(3) as pool:
        pool.map(work, range(0, int(sys.argv[1]), 1000), 1)
"""


def lines(scale: float, seed: int) -> str:
    """A million printed lines, none lost, none torn, none twice."""
    count = max(1, int(1_000 * scale)) * 1000
    result = run_script(_PRINTER, args=[str(count)], timeout=600, env=WITH_TASKS).check()
    seen = result.stdout.split("\n")
    assert seen.pop() == ""
    assert sorted(map(int, seen)) == list(range(count)), f"{len(seen)} lines of {count}"
    return f"{count} lines"


def memory(scale: float, seed: int) -> str:
    """A million no-ops: the memory of the caller and of the workers stays flat."""
    rounds, per_round = 20, int(50_000 * scale)
    with bireme.Pool(2) as pool:
        sizes = []
        for _ in range(rounds):
            for result in [pool.apply_async(nothing) for _ in range(per_round)]:
                result.get(GENEROUS)
            pool.map(nothing, range(per_round))
            gc.collect()
            sizes.append(_family_bytes())
        first, last = max(sizes[: rounds // 4]), max(sizes[-rounds // 4 :])
        assert last <= first * 1.02 + (1 << 20), f"grew from {first} to {last} bytes: {sizes}"
    pool.join()
    return (
        f"{rounds * per_round} no-ops: {sizes[0] >> 10} KiB at first, {sizes[-1] >> 10} KiB at last"
    )


def _family_bytes() -> int:
    """Return the proportional memory of this process and its descendants in bytes."""
    total = 0
    for pid in [os.getpid(), *(process.pid for process in descendants(os.getpid()))]:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total * 1024


PARTS: dict[str, Callable[[float, int], str]] = {
    part.__name__: part for part in (chaos, pools, cancels, lines, memory)
}


def main(arguments: list[str] | None = None) -> int:
    """Run the parts asked for; return 1 when one broke its promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress.soak", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is the whole length")
    parser.add_argument("--only", choices=list(PARTS), action="append")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args(arguments)
    for method in ("template", "forkserver"):  # these processes stay as long as this one
        with bireme.Pool(1, start_method=method) as pool:
            pool.apply(nothing)
        pool.join()
    before, failed, files = take_snapshot(), 0, set(os.listdir(tempfile.gettempdir()))
    for name in options.only or PARTS:
        began = time.monotonic()
        try:
            told = PARTS[name](options.scale, options.seed)
            left = wait_for_no_growth(before)
            assert not left, f"left over: {left} {growth(before, take_snapshot())}"
        except AssertionError as error:
            failed += 1
            told = f"FAILED: {error}"
        print(
            f"{name:8} {time.monotonic() - began:7.1f} s  seed {options.seed}  {told}", flush=True
        )
    print("files left:", sorted(set(os.listdir(tempfile.gettempdir())) - files) or "none")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
