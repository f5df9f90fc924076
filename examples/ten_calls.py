"""Ten calls of a heavy function, measured so that nobody can cheat: loop, Pool, bireme, IPython Parallel, Ray.

Each call computes exp(i)·sinh(i) ten million times, once in plain Python (A) and once with NumPy (B), and returns one
float. Articles have published figures for it that measured only the submission, or tasks that had failed. So here:

- every system has the same number of workers p (the usable cores, then the articles' 10), one BLAS thread each;
- each is warmed with a trivial round; systems take turns in an order that rotates, and medians count, with the spread;
- start-up, submission, and submission to last result are three different columns;
- a row is valid only if all ten floats are right, and if its time is possible at all: at least
  0.9 x max(⌈10/p⌉ x the fastest single call, the CPU time of ten calls / usable cores).

Systems that are not installed say so. Where IPython Parallel is, the famous "10 ms" is reproduced too: ten tasks that
fail, submitted without waiting.

    python examples/ten_calls.py                                    # about ten minutes
    python examples/ten_calls.py --size 200000 --repeat 2           # some seconds
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import math
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

# Before NumPy is imported, here and in every worker: one BLAS thread for everybody.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np

import bireme

N = 10_000_000
CALLS = 10
EXPECTED = math.e * math.sinh(1)  # 3.194528049...


def plain(_call: int) -> float:
    """Compute in plain Python (A)."""
    values = [math.exp(i) * math.sinh(i) for i in [1] * N]
    return values[0]


def vectorised(_call: int) -> float:
    """Compute with NumPy (B)."""
    ones = np.ones(N)
    return float((np.exp(ones) * np.sinh(ones))[0])


def ready(_call: int) -> float:
    """Do next to nothing, NumPy imported: the trivial round that warms a pool."""
    return float(np.exp(0.0))


def set_size(size: int) -> None:
    """Set the global that both functions read; spawned workers need to be told."""
    global N
    N = size


Function = Callable[[int], float]
Gather = Callable[[], list[float]]
#: Submits ten calls and returns what waits for their results.
Submit = Callable[[Function], Gather]


@contextmanager
def serial(_workers: int) -> Iterator[Submit]:
    """Run the calls one after the other, here."""
    yield lambda function: lambda: [function(call) for call in range(CALLS)]


@contextmanager
def standard_pool(workers: int) -> Iterator[Submit]:
    """Use the standard library's pool, with its default start method and chunk size."""
    with multiprocessing.Pool(workers, set_size, (N,)) as pool:
        pool.map(ready, range(4 * workers), 1)
        yield lambda function: pool.map_async(function, range(CALLS)).get


@contextmanager
def bireme_pool(workers: int) -> Iterator[Submit]:
    """Use bireme's pool; its workers find NumPy loaded, as forked ones of the standard pool do."""
    with bireme.Pool(workers, preload=("numpy",)) as pool:
        pool.map(ready, range(4 * workers), 1)
        yield lambda function: pool.map_async(function, range(CALLS)).get


@contextmanager
def ipyparallel_view(workers: int) -> Iterator[Submit]:
    """Use IPython Parallel as its manual says: import and push first, and wait for the results."""
    import ipyparallel

    with ipyparallel.Cluster(n=workers, log_level=40) as client:
        view = client[:]
        PUBLISHED.setdefault(workers, as_published(view))
        view.execute("import math, numpy as np", block=True)
        view.push({"N": N}, block=True)
        view.map_sync(ready, range(4 * workers))
        yield lambda function: view.map_async(function, range(CALLS)).get


@contextmanager
def ray_tasks(workers: int) -> Iterator[Submit]:
    """Use Ray's tasks."""
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        remotes = {function: ray.remote(function) for function in (ready, plain, vectorised)}
        ray.get([remotes[ready].remote(call) for call in range(4 * workers)])

        def submit(function: Function) -> Gather:
            references = [remotes[function].remote(call) for call in range(CALLS)]
            return lambda: ray.get(references)

        yield submit
    finally:
        ray.shutdown()


SYSTEMS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "serial": ("math", serial),
    "multiprocessing.Pool": ("multiprocessing", standard_pool),
    "bireme.Pool": ("bireme", bireme_pool),
    "IPython Parallel": ("ipyparallel", ipyparallel_view),
    "Ray": ("ray", ray_tasks),
}
PUBLISHED: dict[int, str] = {}
#: Wall and CPU seconds of every single call made here, by function: what is possible at best.
SINGLES: dict[Function, list[tuple[float, float]]] = {plain: [], vectorised: []}


def as_published(view: Any) -> str:
    """Run the listing as articles print it: no imports on the engines, no waiting; say what became of it."""
    start = perf_counter()
    result = view.map_async(plain, range(CALLS))
    submitted = perf_counter() - start
    failed = 0
    for part in result.msg_ids:
        try:
            view.client.get_result(part, owner=False).get(timeout=30)
        except Exception:  # whatever the engine raised
            failed += 1
    return (
        f"as published: submitted in {submitted * 1000:.1f} ms; {failed} of its {len(result.msg_ids)} messages, "
        f"which hold the {CALLS} tasks, failed on the engines"
    )


@dataclass
class Samples:
    """What one system did: seconds of each kind, and why the row is invalid if it is."""

    start: list[float] = field(default_factory=list)
    submit: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    invalid: str = ""


def measure(name: str, function: Function, workers: int, samples: Samples) -> None:
    """Open a system, make the ten calls, close it, and note the three times."""
    begin = perf_counter()
    with SYSTEMS[name][1](workers) as submit:
        samples.start.append(perf_counter() - begin)
        begin = perf_counter()
        gather = submit(function)
        samples.submit.append(perf_counter() - begin)
        values = gather()
        samples.total.append(perf_counter() - begin)
    values = list(values)
    if len(values) != CALLS or any(abs(value - EXPECTED) > 1e-9 for value in values):
        samples.invalid = f"wrong results: {values}"


def single_call(function: Function) -> tuple[float, float]:
    """Return the wall and CPU seconds of one call made here."""
    wall, cpu = perf_counter(), process_time()
    function(0)
    return perf_counter() - wall, process_time() - cpu


def compare(title: str, function: Function, workers: int, repeat: int) -> None:
    """Measure every system in rotated turns and print the table."""
    singles = SINGLES[function]
    rows = {name: Samples() for name in SYSTEMS}
    for turn in range(repeat):
        singles.append(single_call(function))
        names = list(rows)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            samples = rows[name]
            if importlib.util.find_spec(SYSTEMS[name][0]) is None:
                samples.invalid = "not installed"
            elif not samples.invalid:
                try:
                    measure(name, function, workers, samples)
                except Exception as error:
                    samples.invalid = f"{type(error).__name__}: {error}"

    singles += [(total / CALLS, total / CALLS) for total in rows["serial"].total]
    wall, cpu = (min(times) for times in zip(*singles, strict=True))
    print(f"\n{title}, p = {workers} (fastest single call {wall:.3f} s)")
    print(
        f"{'':<22}{'start-up':>10}{'submit':>12}{'to last result':>16}{'min … max':>18}   verdict"
    )
    for name, samples in rows.items():
        if not samples.total:
            print(f"{name:<22}{'-':>10}{'-':>12}{'-':>16}{'-':>18}   {samples.invalid}")
            continue
        lanes = 1 if name == "serial" else workers
        possible = 0.9 * max(math.ceil(CALLS / lanes) * wall, CALLS * cpu / bireme.cpu_count())
        if min(samples.total) < possible:
            samples.invalid = f"impossible: faster than {possible:.3f} s"
        verdict = f"INVALID: {samples.invalid}" if samples.invalid else "valid"
        submit = "-" if name == "serial" else f"{median(samples.submit) * 1000:.2f} ms"
        spread = f"{min(samples.total):.3f} … {max(samples.total):.3f}"
        print(
            f"{name:<22}{median(samples.start):>8.3f} s{submit:>12}"
            f"{median(samples.total):>14.3f} s{spread:>18}   {verdict}"
        )


def main() -> None:
    """Say what machine this is, then compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", type=int, default=N, help="elements per call (default: %(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[bireme.cpu_count(), 10])
    parser.add_argument(
        "--skip", nargs="*", choices=list(SYSTEMS)[1:], default=[], metavar="SYSTEM"
    )
    options = parser.parse_args()
    set_size(options.size)
    for name in options.skip:
        del SYSTEMS[name]

    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    print((models or [platform.machine()])[0].partition(":")[2].strip(), end=", ")
    print(
        f"{bireme.cpu_count()} usable cores, load {os.getloadavg()[0]:.2f}, Python {sys.version.split()[0]}, ",
        end="",
    )
    print(f"multiprocessing starts by {multiprocessing.get_start_method()}, ", end="")
    packages = [
        package
        for package in ("numpy", "bireme", "ipyparallel", "ray")
        if importlib.util.find_spec(package)
    ]
    print(", ".join(f"{package} {version(package)}" for package in packages))
    print(f"{CALLS} calls, {N:,} elements each; {options.repeat} repeats; expected {EXPECTED:.9f}")
    for workers in options.workers:
        compare("A, plain Python", plain, workers, options.repeat)
        compare("B, NumPy", vectorised, workers, options.repeat)
    for workers, story in PUBLISHED.items():
        print(f"\nIPython Parallel, p = {workers}, {story}.")


def version(package: str) -> str:
    """Return the version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not a distribution)"


# bireme needs no guard: its workers never run this file. multiprocessing.Pool does where it spawns workers or takes
# them from a fork server (the default since Python 3.14), because those import this file again.
if __name__ == "__main__":
    main()
