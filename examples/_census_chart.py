"""The chart of ``code_census.py``: packages, favourite names, imported modules, and the three times."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

    from code_census import Census

INK, FAINT, PAPER = "#1d2733", "#8693a0", "#fbfaf7"
SEA, FOAM, OAR, SAND = "#1f6f8b", "#99c4cf", "#d9622b", "#c9ced3"

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": PAPER,
    "axes.labelcolor": INK,
    "figure.facecolor": PAPER,
    "xtick.color": FAINT,
    "ytick.color": INK,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.spines.bottom": False,
}


def draw(packages: dict[str, Census], times: dict[str, float], workers: int, path: Path) -> None:
    """Draw the census and the times of the three ways into a PNG file.

    Parameters
    ----------
    packages : dict of str to Census
        The counts by package.
    times : dict of str to float
        Seconds of each way; the first is the plain loop.
    workers : int
        How many processes the parallel ways had.
    path : Path
        The file to write.
    """
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(14, 9.2), dpi=150)
        grid = figure.add_gridspec(
            3,
            2,
            width_ratios=(1.75, 1),
            height_ratios=(0.62, 1, 1),
            left=0.135,
            right=0.975,
            top=0.845,
            bottom=0.06,
            wspace=0.3,
            hspace=0.42,
        )
        headline(figure, packages, times, workers)
        package_bars(figure.add_subplot(grid[:, 0]), packages)
        time_bars(figure.add_subplot(grid[0, 1]), times)
        names: Counter[str] = Counter()
        modules: Counter[str] = Counter()
        for census in packages.values():
            names.update(census.names)
            modules.update(census.modules)
        myself = names.pop("self", 0)
        dots(
            figure.add_subplot(grid[1, 1]), f"Most used names, after self ({myself:,})", names, SEA
        )
        dots(figure.add_subplot(grid[2, 1]), "Most imported modules", modules, OAR)
        figure.savefig(path)
        plt.close(figure)


def headline(
    figure: Any, packages: dict[str, Census], times: dict[str, float], workers: int
) -> None:
    """Say in two lines what is seen and what it took."""
    files = sum(census.files for census in packages.values())
    lines = sum(census.lines for census in packages.values())
    size = sum(census.size_bytes for census in packages.values())
    functions = sum(census.functions for census in packages.values())
    figure.text(0.02, 0.945, "What your Python is made of", fontsize=23, fontweight="bold")
    figure.text(
        0.02,
        0.908,
        f"{functions:,} functions in {files:,} files of {len(packages)} packages: {lines:,} lines, "
        f"{size / 1e6:,.0f} MB, parsed in {list(times.values())[-1]:.1f} s by {workers} workers",
        fontsize=12,
        color=FAINT,
    )


def title(axes: Any, text: str) -> None:
    """Put a title above the left edge of a panel."""
    axes.set_title(text, loc="left", fontsize=12, fontweight="bold", pad=9)


def package_bars(axes: Any, packages: dict[str, Census], count: int = 22) -> None:
    """Draw functions and classes of the largest packages, and name each one's longest function."""
    ranked = sorted(packages.values(), key=lambda census: census.functions + census.classes)[
        -count:
    ]
    rows = range(len(ranked))
    functions = [census.functions for census in ranked]
    classes = [census.classes for census in ranked]
    axes.barh(rows, functions, height=0.68, color=SEA, label="functions")
    axes.barh(rows, classes, left=functions, height=0.68, color=FOAM, label="classes")
    widest = max(census.functions + census.classes for census in ranked)
    for row, census in zip(rows, ranked, strict=True):
        length, name = census.longest
        end = census.functions + census.classes
        inside = end > widest * 0.62
        axes.annotate(
            f"{end:,}",
            (end, row),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            fontweight="bold",
        )
        axes.annotate(
            f"{name[:34]}  {length:,} lines",
            (census.functions, row) if inside else (end, row),
            (-8, 0) if inside else (16 + 6.5 * len(f"{end:,}"), 0),
            textcoords="offset points",
            va="center",
            ha="right" if inside else "left",
            fontsize=8.5,
            color=PAPER if inside else FAINT,
        )
    axes.set_yticks(rows, [census.package for census in ranked], fontsize=10)
    axes.set_xlim(0, widest * 1.1)
    axes.set_ylim(-0.6, len(ranked) - 0.4)
    axes.set_xticks([])
    title(axes, "Largest packages, each with its longest function")
    axes.legend(loc="lower right", frameon=False, ncols=2, fontsize=10)


def time_bars(axes: Any, times: dict[str, float]) -> None:
    """Draw the seconds of each way, bireme's in its own colour."""
    loop = next(iter(times.values()))
    ways = list(times)[::-1]
    colours = [OAR if way.startswith("bireme") else SAND for way in ways]
    axes.barh(ways, [times[way] for way in ways], height=0.62, color=colours)
    for row, way in enumerate(ways):
        speed = "" if times[way] == loop else f"   {loop / times[way]:.2f} x"
        axes.text(
            times[way] + loop * 0.015, row, f"{times[way]:.2f} s{speed}", va="center", fontsize=10
        )
    axes.set_xlim(0, max(times.values()) * 1.3)
    axes.set_xticks([])
    title(axes, "The same counts, three ways")


def dots(axes: Any, text: str, counts: Counter[str], colour: str, count: int = 10) -> None:
    """Draw the most common words as dots on lines."""
    common = counts.most_common(count)[::-1]
    rows = range(len(common))
    values = [value for _, value in common]
    axes.hlines(rows, 0, values, color=colour, linewidth=2, alpha=0.45)
    axes.plot(values, rows, "o", color=colour, markersize=7)
    for row, value in zip(rows, values, strict=True):
        axes.text(
            value + max(values) * 0.03, row, f"{value:,}", va="center", fontsize=9, color=FAINT
        )
    axes.set_yticks(rows, [word for word, _ in common], family="DejaVu Sans Mono", fontsize=9.5)
    axes.set_xlim(0, max(values, default=1) * 1.17)
    axes.set_ylim(-0.6, len(common) - 0.4)
    axes.set_xticks([])
    title(axes, text)
