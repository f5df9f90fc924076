"""Turn results into verdicts, a table on the terminal, and ``BENCHMARKS.md``."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, TypedDict

from benches.compare.model import Bar, Summary, Workload, label, quantity
from benches.compare.workloads import ROWS, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benches.compare.harness import Outcome, Row


class Results(TypedDict):
    """A run, as ``--json`` writes it."""

    quick: bool
    machine: dict[str, str]
    limits: dict[str, str]
    rows: dict[str, Row]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a bar came out: the two figures, bireme's ratio to the peer, and one plain word."""

    bar: Bar
    mine: float | None
    theirs: float | None
    word: str

    @property
    def ratio(self) -> float | None:
        """How many times less bireme's figure is than the peer's (or than the limit)."""
        reference = self.bar.factor if self.bar.against is None else self.theirs
        return reference / self.mine if self.mine and reference else None


def figure(row: Row, contender: str, name: str) -> float | None:
    """Return the median of a contender's figure over its runs, None if it has none."""
    runs = row.get(contender, {"runs": [], "failure": None})["runs"]
    samples = [run[name] for run in runs if name in run]
    return median(samples) if samples else None


def judge(bar: Bar, row: Row) -> Verdict:
    """Compare bireme with a bar; a peer that did not run leaves it open, a bireme that did not misses it."""
    mine = figure(row, bar.contender, bar.figure)
    theirs = None if bar.against is None else figure(row, bar.against, bar.theirs or bar.figure)
    if mine is None:
        word = "not reached" if bar.reach else "MISSED (no result)"
    elif bar.against is not None and theirs is None:
        why = row.get(bar.against, {"runs": [], "failure": "not measured"})["failure"]
        word = f"open: {label(bar.against)} {why}"
    elif bar.against == "bare" and theirs is not None and mine < 0.9 * theirs:
        word = "INVALID: faster than possible, so the machine was busy"
    else:
        met = mine <= bar.factor * (1.0 if theirs is None else theirs)
        word = {(True, False): "met", (False, False): "MISSED", (True, True): "reached"}.get(
            (met, bar.reach), "not reached"
        )
    return Verdict(bar, mine, theirs, word)


def verdicts(results: Results) -> Iterator[tuple[str, Workload, Verdict]]:
    """Yield every bar of every measured row, in the table's order."""
    for name in ROWS:
        if name in results["rows"]:
            workload = load(name).WORKLOAD
            for bar in workload.bars:
                yield name, workload, judge(bar, results["rows"][name])


def cells(verdict: Verdict) -> list[str]:
    """Return bar, bireme's figure, the peer's, ratio and verdict as text."""
    bar = verdict.bar
    mine = "-" if verdict.mine is None else quantity(bar.figure, verdict.mine)
    theirs = "-" if verdict.theirs is None else quantity(bar.figure, verdict.theirs)
    ratio = "-" if verdict.ratio is None else times(verdict.ratio)
    kind = "reach for: " if bar.reach else ""
    return [kind + bar.text, mine, theirs, ratio, verdict.word]


def times(ratio: float) -> str:
    """Return a ratio as text, without digits that mean nothing."""
    return f"{ratio:,.0f} x" if ratio >= 100 else f"{ratio:.2f} x"


HEADS = ["work", "bar", "bireme", "peer", "ratio", "verdict"]


def terminal(results: Results) -> str:
    """Return the table for the terminal."""
    lines = [HEADS]
    last = ""
    for name, _, verdict in verdicts(results):
        lines.append(
            [name if name != last else "", *(cell.replace("`", "") for cell in cells(verdict))]
        )
        last = name
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    text.insert(1, "─" * max(len(line) for line in text))
    for name, row in results["rows"].items():
        text += [
            f"  {name}: {label(who)} {outcome['failure']}"
            for who, outcome in row.items()
            if outcome["failure"] is not None
        ]
    return "\n".join(text)


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table."""
    marks = ["---"] + [
        "---:" if head in {"bireme", "peer", "ratio"} else "---" for head in heads[1:]
    ]
    return ["| " + " | ".join(row) + " |" for row in [heads, marks, *rows]]


def markdown(results: Results) -> str:
    """Return ``BENCHMARKS.md``."""
    judged = list(verdicts(results))
    last = ""
    rows = []
    for _, workload, verdict in judged:
        rows.append([workload.title if workload.title != last else "", *cells(verdict)])
        last = workload.title
    promised = [verdict for _, _, verdict in judged if not verdict.bar.reach]
    met = sum(verdict.word == "met" for verdict in promised)
    return "\n".join(
        [
            HEAD.format(**results["machine"]),
            *table(
                ["this machine", "measured"],
                [[what, how] for what, how in results["limits"].items()],
            ),
            "",
            "## The bars",
            "",
            f"{met} of {len(promised)} bars are met. {BARS}",
            "",
            *table(HEADS, rows),
            "",
            "## Where bireme loses",
            "",
            *losses(results, judged),
            "",
            "## Every contender",
            "",
            EVERY,
            *(
                line
                for name in ROWS
                if name in results["rows"]
                for line in details(name, results["rows"][name])
            ),
        ]
    )


def losses(results: Results, judged: list[tuple[str, Workload, Verdict]]) -> list[str]:
    """Name every missed bar, and every contender that was faster (or smaller) than bireme."""
    lines = [
        f"- {workload.title}: bar {verdict.bar.text} **{verdict.word}** "
        f"({' against '.join(cell for cell in cells(verdict)[1:3] if cell != '-') or 'no figure'})."
        for _, workload, verdict in judged
        if verdict.word.startswith(("MISSED", "INVALID"))
    ]
    for name in ROWS:
        row = results["rows"].get(name, {})
        workload = load(name).WORKLOAD
        mine = figure(row, "bireme", workload.headline)
        better = [
            f"{label(who)} ({quantity(workload.headline, theirs)})"
            for who in row
            if not who.startswith(("bireme", "bare", "interpreter"))
            and mine is not None
            and (theirs := figure(row, who, workload.headline)) is not None
            and theirs < mine
        ]
        if mine is not None and better:
            lines.append(
                f"- {workload.title}: {quantity(workload.headline, mine)}; less: {', '.join(better)}."
            )
    return lines or ["Nowhere in this run."]


def details(name: str, row: Row) -> Iterator[str]:
    """Yield the section of one row: every figure of every contender with its spread."""
    workload = load(name).WORKLOAD
    yield f"\n### {workload.title}\n"
    if workload.note:
        yield f"{workload.note}\n"
    lines = []
    for who, outcome in row.items():
        lines += list(contender_lines(who, outcome, row, workload.headline))
    yield from table(
        ["contender", "figure", "median", "IQR", "min … max", "runs", "÷ bireme"], lines
    )
    yield f"\n`python -m benches.compare --only '^{name}$'`"


def contender_lines(who: str, outcome: Outcome, row: Row, headline: str) -> Iterator[list[str]]:
    """Yield a line a figure, the headline first."""
    names = {name: None for run in outcome["runs"] for name in run}
    for name in sorted(names, key=lambda name: name != headline):
        samples = [run[name] for run in outcome["runs"] if name in run]
        summary = Summary.of(samples)
        mine = figure(row, "bireme", name)
        yield [
            label(who) if name == headline else "",
            f"`{name}`",
            quantity(name, summary.median),
            quantity(name, summary.iqr) if summary.count > 1 else "-",
            f"{quantity(name, summary.minimum)} … {quantity(name, summary.maximum)}"
            if summary.count > 1
            else "-",
            str(summary.count),
            f"{summary.median / mine:.2f}" if mine else "-",
        ]
    if outcome["failure"] is not None:
        yield [
            label(who),
            outcome["failure"].replace("|", "\\|").replace("\n", " "),
            "",
            "",
            "",
            "",
            "",
        ]


HEAD = """\
# Benchmarks

bireme beside its peers: the same work in one run. Every measurement has a fresh process; contenders
take turns, in an order that rotates every round; a value that comes back wrong makes the measurement
a failure; each figure is the median over the processes. Contenders that no bar names take part in
fewer rounds. Nothing can beat two bare processes with an optimal split by a tenth, unless something
else used the machine: such a line is invalid, not met. This file is written by `python -m benches.compare` and not edited by hand.

- {date}, {processor}, {usable cores} usable cores, {memory}, {system}
- Python {python}; {packages}
- bireme's files (Python and the compiled core) have the fingerprint {build}
- load averages before the run: {load before}; `OMP_NUM_THREADS=1`

To repeat it: `make bench`, or `python -m benches.compare` (`--quick` for two minutes, `--only REGEX` for some rows,
`--json FILE` for every sample).

## The limits of this machine
"""

BARS = """\
*Ratio* says how many times less bireme's figure is than the peer's, or than the limit where the bar is \
one. Lines with "reach for" are aims, not promises."""

EVERY = """\
*IQR* is the distance between the quartiles. Figures end in `_s` (time) or `_bytes`; less is better in all."""
