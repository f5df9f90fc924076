"""Compare bireme with its peers: ``python -m benches.compare [--quick] [--only REGEX] [--json FILE]``."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path

from benches.compare import harness, limits, machine, report
from benches.compare.workloads import ROWS

DOCUMENT = harness.ROOT / "BENCHMARKS.md"


def arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog="python -m benches.compare", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="about two minutes: small sizes, one round"
    )
    parser.add_argument("--only", metavar="REGEX", default="", help="rows whose name matches")
    parser.add_argument(
        "--peers", metavar="REGEX", default="", help="contenders whose name matches"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every sample there")
    parser.add_argument(
        "--merge",
        metavar="FILE",
        type=Path,
        nargs="+",
        help="measure nothing: merge these full results, later ones winning, and write BENCHMARKS.md",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    return parser.parse_args()


def measured(options: argparse.Namespace) -> report.Results:
    """Run the rows that were asked for."""
    names = [name for name in ROWS if re.search(options.only, name)]
    started = time.monotonic()

    def say(what: str) -> None:
        line = f"[{time.monotonic() - started:4.0f} s] {what}"
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    facts = machine.describe()
    if machine.busy():
        print(f"the machine is busy (load {facts['load before']}): do not trust the figures")
    say("the machine's limits")
    results: report.Results = {
        "quick": options.quick,
        "machine": facts,
        "limits": limits.measure(),
        "rows": {},
    }
    for name in names:
        results["rows"][name] = harness.run_row(
            name,
            quick=options.quick,
            wanted=lambda contender: re.search(options.peers, contender) is not None,
            say=say,
        )
        if machine.build() != facts["build"]:
            sys.exit(f"bireme changed during {name}: its figures belong to no one build")
        if options.json:  # after every row: a run that is cut short keeps what it has
            options.json.write_text(json.dumps(results, indent=1) + "\n")
    say("done\n")
    return results


def merged(files: list[Path]) -> report.Results:
    """Return full results put together; of a row that several files hold, the last one counts."""
    loaded: list[report.Results] = [json.loads(file.read_text()) for file in files]
    if any(results["quick"] for results in loaded):
        sys.exit(
            "a quick run is no basis for BENCHMARKS.md: its sizes are small and it has one round"
        )
    for fact in ("processor", "usable cores", "memory", "python", "packages", "build"):
        if len({results["machine"][fact] for results in loaded}) > 1:
            sys.exit(f"these results differ in {fact}: they make no one table")
    dates = dict.fromkeys(results["machine"]["date"] for results in loaded)
    return {
        "quick": False,
        "machine": loaded[-1]["machine"] | {"date": ", ".join(dates)},
        "limits": loaded[-1]["limits"],
        "rows": {name: row for results in loaded for name, row in results["rows"].items()},
    }


def main() -> None:
    """Measure or merge, print the table, and write the document when the run is full and whole."""
    options = arguments()
    if options.list:
        print("\n".join(ROWS))
        return
    results = merged(options.merge) if options.merge else measured(options)
    print(report.terminal(results))
    whole = not results["quick"] and not options.peers and set(results["rows"]) == set(ROWS)
    if whole:
        DOCUMENT.write_text(report.markdown(results) + "\n")
        print(f"\nwritten: {DOCUMENT}")
    else:
        print("\nBENCHMARKS.md is left as it is: only a full run of every row writes it.")


if __name__ == "__main__":
    main()
