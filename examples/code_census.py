"""Count the code that Python itself is made of: a loop, `multiprocessing.Pool` and bireme side by side.

Every Python source file of this interpreter's standard library and site-packages is parsed with `ast`. Functions,
classes, imports, the longest function and the most used names are counted per package. The three runs must agree to
the last count; a table gives their times, and a chart shows what was found.

    python examples/code_census.py                          # everything: a minute or two
    python examples/code_census.py --limit 300 --no-chart   # a few seconds
    python examples/code_census.py --roots ~/my/project --repeat 3
"""

from __future__ import annotations

import argparse
import ast
import multiprocessing
import os
import statistics
import sysconfig
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import bireme

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SINGLE_MODULES = "(single modules)"


@dataclass(slots=True)
class Census:
    """What was counted in one file, or in all files of a package."""

    package: str
    files: int = 0
    unparsable: int = 0
    size_bytes: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    imports: int = 0
    longest: tuple[int, str] = (0, "")
    names: Counter[str] = field(default_factory=Counter)
    modules: Counter[str] = field(default_factory=Counter)

    def add(self, other: Census) -> None:
        """Add the counts of another census to this one."""
        for count in (
            "files",
            "unparsable",
            "size_bytes",
            "lines",
            "functions",
            "classes",
            "imports",
        ):
            setattr(self, count, getattr(self, count) + getattr(other, count))
        self.longest = max(self.longest, other.longest)
        self.names.update(other.names)
        self.modules.update(other.modules)


def census_of(source: tuple[str, str]) -> Census:
    """Parse one file and count: the task that the three runs share."""
    package, path = source
    data = Path(path).read_bytes()
    census = Census(package, files=1, size_bytes=len(data), lines=data.count(b"\n"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError):  # test data of the standard library, mostly
        census.unparsable = 1
        return census
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name):
                census.names[name] += 1
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                census.functions += 1
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                census.longest = max(census.longest, (length, name))
            case ast.ClassDef():
                census.classes += 1
            case ast.Import(names=aliases):
                census.imports += len(aliases)
                census.modules.update(alias.name.partition(".")[0] for alias in aliases)
            case ast.ImportFrom(names=aliases, module=module, level=level):
                census.imports += len(aliases)
                if module and not level:
                    census.modules[module.partition(".")[0]] += 1
    return census


def merged(parts: Iterable[Census]) -> dict[str, Census]:
    """Add up the census of every file, by package."""
    packages: dict[str, Census] = {}
    for part in parts:
        packages.setdefault(part.package, Census(part.package)).add(part)
    return packages


def python_files(roots: Iterable[Path]) -> list[tuple[str, str]]:
    """Return (package, path) of every Python file below the roots, each file once."""
    found: dict[Path, str] = {}
    inner = {root.resolve() for root in roots}
    for root in inner:
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(
                name for name in folders if Path(folder, name).resolve() not in inner - {root}
            )
            if Path(folder) != root and Path(folder).name in {"site-packages", "dist-packages"}:
                folders.clear()  # of another interpreter: a virtual environment's base
                continue
            for name in files:
                if name.endswith(".py"):
                    path = Path(folder, name)
                    top = path.relative_to(root).parts
                    found[path] = top[0] if len(top) > 1 else SINGLE_MODULES
    return sorted((package, str(path)) for path, package in found.items())


def default_roots() -> list[Path]:
    """Return the folders of this interpreter's standard library and site-packages."""
    paths = sysconfig.get_paths()
    return [
        Path(root) for root in sorted({paths[name] for name in ("stdlib", "purelib", "platlib")})
    ]


# -- the three ways -------------------------------------------------------------------------------


def with_loop(sources: list[tuple[str, str]], _workers: int) -> dict[str, Census]:
    """Count with a plain loop."""
    return merged(census_of(source) for source in sources)


def with_pool(sources: list[tuple[str, str]], workers: int) -> dict[str, Census]:
    """Count with the standard library's pool."""
    with multiprocessing.Pool(workers) as pool:
        return merged(pool.map(census_of, sources))


def with_bireme(sources: list[tuple[str, str]], workers: int) -> dict[str, Census]:
    """Count with bireme: another import, the same two lines, and a progress bar."""
    with bireme.Pool(workers) as pool:
        return merged(pool.map(census_of, sources, progress=True))


WAYS: dict[str, Callable[[list[tuple[str, str]], int], dict[str, Census]]] = {
    "plain loop": with_loop,
    "multiprocessing.Pool": with_pool,
    "bireme.Pool": with_bireme,
}


def main() -> None:
    """Run the ways in turn, check that they agree, print the tables, draw the chart."""
    options = arguments()
    sources = python_files(options.roots)
    if options.limit:
        sources = sources[:: -(-len(sources) // options.limit)]
    if not sources:
        raise SystemExit(f"no Python file below {', '.join(map(str, options.roots))}")
    print(f"{len(sources):,} Python files, {options.workers} workers\n", flush=True)

    times: dict[str, list[float]] = {way: [] for way in WAYS}
    packages: dict[str, Census] = {}
    for round_number in range(options.repeat):
        for way in list(WAYS)[round_number % 3 :] + list(WAYS)[: round_number % 3]:
            start = perf_counter()
            counted = WAYS[way](sources, options.workers)
            times[way].append(perf_counter() - start)
            packages = packages or counted
            assert counted == packages, f"{way} counted something else"
    medians = {way: statistics.median(samples) for way, samples in times.items()}

    print_packages(packages)
    print_times(medians)
    if not options.no_chart:
        from _census_chart import draw

        options.chart.parent.mkdir(parents=True, exist_ok=True)
        draw(packages, medians, options.workers, options.chart)
        print(f"\nchart: {options.chart}")


def total(packages: dict[str, Census]) -> Census:
    """Return the sum over all packages."""
    everything = Census("total")
    for census in packages.values():
        everything.add(census)
    return everything


def print_packages(packages: dict[str, Census], count: int = 15) -> None:
    """Print the packages with most functions, and the total."""
    ranked = sorted(packages.values(), key=lambda census: -census.functions)
    print(
        f"{'package':<22}{'files':>7}{'functions':>11}{'classes':>9}{'imports':>9}  longest function, favourite names"
    )
    for census in [*ranked[:count], total(packages)]:
        length, name = census.longest
        names = ", ".join(word for word, _ in census.names.most_common(3))
        print(
            f"{census.package[:21]:<22}{census.files:>7,}{census.functions:>11,}{census.classes:>9,}"
            f"{census.imports:>9,}  {name} ({length:,} lines); {names}"
        )
    everything = total(packages)
    print(
        f"\n{len(packages)} packages, {everything.lines:,} lines, {everything.size_bytes / 1e6:.1f} MB; "
        f"{everything.unparsable} files are no valid Python.\n"
    )


def print_times(medians: dict[str, float]) -> None:
    """Print the time of each way and how it compares with the loop."""
    loop = medians["plain loop"]
    print(f"{'the same counts from':<24}{'seconds':>9}{'speed-up':>10}")
    for way, seconds in medians.items():
        print(f"{way:<24}{seconds:>9.2f}{loop / seconds:>9.2f}x")


def arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--roots", nargs="+", type=Path, metavar="FOLDER", default=default_roots())
    parser.add_argument(
        "--limit", type=int, metavar="N", help="at most N files, spread evenly over all"
    )
    parser.add_argument("--workers", type=int, metavar="N", default=bireme.cpu_count())
    parser.add_argument(
        "--repeat", type=int, metavar="N", default=1, help="runs of each way; the median counts"
    )
    parser.add_argument("--chart", type=Path, metavar="PATH", default=Path("build/code_census.png"))
    parser.add_argument("--no-chart", action="store_true")
    return parser.parse_args()


# bireme needs no guard: its workers never run this file. multiprocessing.Pool does where it spawns workers or takes
# them from a fork server (the default since Python 3.14), because those import this file again.
if __name__ == "__main__":
    main()
