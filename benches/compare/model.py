"""The nouns of the benchmark: a workload, the bars it must reach, and a summary of samples.

Every figure is "less is better" and in seconds or bytes; its name says which (``total_s``, ``tree_bytes``). That
leaves one kind of bar: bireme's figure is at most `factor` times a peer's, or at most a fixed limit.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Figures = dict[str, float]

#: What the tables call each contender.
LABELS = {
    "bireme": "bireme",
    "bireme-fork": "bireme, fork",
    "pool-fork": "`Pool`, fork",
    "pool-spawn": "`Pool`, spawn",
    "pool-forkserver": "`Pool`, forkserver",
    "executor": "`ProcessPoolExecutor`",
    "threads": "`ThreadPoolExecutor`",
    "joblib": "joblib",
    "loky": "loky",
    "mpire": "mpire",
    "ray": "Ray",
    "loop": "plain loop",
    "bare": "two bare processes",
    "interpreter": "bare interpreter",
}

#: Who takes part where nothing speaks against it, and who maps many small items.
EVERYONE = (
    "bireme",
    "bireme-fork",
    "pool-fork",
    "pool-spawn",
    "executor",
    "threads",
    "loky",
    "joblib",
    "mpire",
    "ray",
    "loop",
)
MAPPERS = tuple(name for name in EVERYONE if name not in {"threads", "joblib", "ray"})


def label(contender: str) -> str:
    """Return what the tables call `contender`."""
    return LABELS.get(contender, contender)


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise of a row: ``figure <= factor * peer's figure``, or ``figure <= factor`` without a peer.

    Attributes
    ----------
    text : str
        The promise as the table prints it.
    factor : float
        The multiple of the peer's figure; without a peer, the limit itself (seconds or bytes).
    figure : str
        Which of bireme's figures is judged.
    against : str or None
        The peer, None for a fixed limit.
    theirs : str or None
        The peer's figure where it has another name.
    contender : str
        Which of bireme's faces is judged.
    reach : bool
        True for an aim beyond what is promised: reported, but never called missed.
    """

    text: str
    factor: float
    figure: str = "total_s"
    against: str | None = None
    theirs: str | None = None
    contender: str = "bireme"
    reach: bool = False


def faster(
    times: float,
    than: str,
    figure: str = "total_s",
    *,
    theirs: str | None = None,
    reach: bool = False,
) -> Bar:
    """Return the bar "at least `times` as fast as the peer `than`"."""
    return Bar(f"≥ {times:g} x {label(than)}", 1 / times, figure, than, theirs, reach=reach)


def within(
    factor: float,
    of: str,
    figure: str = "total_s",
    *,
    contender: str = "bireme",
    theirs: str | None = None,
) -> Bar:
    """Return the bar "at most `factor` times the peer's figure"."""
    mine = "" if contender == "bireme" else f"{label(contender)}: "
    return Bar(f"{mine}≤ {factor:g} x {label(of)}", factor, figure, of, theirs, contender)


def at_most(limit: float, figure: str = "total_s", *, text: str = "", reach: bool = False) -> Bar:
    """Return the bar "at most `limit`" (seconds or bytes)."""
    return Bar(text or f"≤ {quantity(figure, limit)}", limit, figure, reach=reach)


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the comparison.

    Attributes
    ----------
    title : str
        The row's text.
    contenders : tuple of str
        Who runs it; names of `LABELS`.
    bars : tuple of Bar
        What bireme must reach.
    headline : str
        The figure by which contenders are compared in the table.
    repeats : int
        Fresh processes of a full run, for each contender that a bar names.
    timeout_s : float
        After this long one measurement is given up and reported so.
    note : str
        What a reader must know to judge the row: how a peer is used, who is left out and why.
    """

    title: str
    contenders: tuple[str, ...]
    bars: tuple[Bar, ...]
    headline: str = "total_s"
    repeats: int = 5
    timeout_s: float = 60.0
    note: str = ""

    def judged(self) -> tuple[str, ...]:
        """Return bireme's faces and the peers that a bar names."""
        named = {bar.against for bar in self.bars} | {bar.contender for bar in self.bars}
        return tuple(name for name in self.contenders if name in named | {"bireme"})

    def rounds(self, contender: str) -> int:
        """Return in how many rounds of a full run a contender takes part.

        The table hangs on those that a bar names; the others are there for comparison, and some
        take ten seconds for what is judged in one.
        """
        return self.repeats if contender in self.judged() else max(1, self.repeats // 2)


@dataclass(frozen=True, slots=True)
class Summary:
    """Median, quartiles and extremes of some samples.

    Examples
    --------
    >>> Summary.of([4.0, 1.0, 3.0, 2.0, 5.0])
    Summary(count=5, median=3.0, iqr=2.0, minimum=1.0, maximum=5.0)
    """

    count: int
    median: float
    iqr: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Summary:
        """Sum up `samples`, at least one."""
        if len(samples) == 1:
            quarters = [samples[0]] * 3
        else:
            quarters = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(
            len(samples),
            statistics.median(samples),
            quarters[2] - quarters[0],
            min(samples),
            max(samples),
        )


def quantity(figure: str, value: float) -> str:
    """Return `value` with the unit that the name of its `figure` implies.

    Examples
    --------
    >>> quantity("total_s", 0.00123), quantity("tree_bytes", 34_500_000)
    ('1.23 ms', '34.5 MB')
    """
    units = (
        (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
        if figure.endswith("_bytes")
        else (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
    )
    unit, size = next(((u, s) for u, s in units if abs(value) >= s), units[-1])
    return (
        f"{value / size:.3g} {unit}" if abs(value) < 1000 * size else f"{value / size:,.0f} {unit}"
    )
