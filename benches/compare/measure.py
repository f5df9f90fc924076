"""The process in which one contender runs one row once: ``python -m benches.compare.measure ROW CONTENDER SIZE``.

The last line of its standard output is one JSON object: ``{"figures": {...}}`` or ``{"failure": "..."}``.
"""

from __future__ import annotations

import json
import sys

from benches.compare.workloads import load


def main(row: str, contender: str, size: str) -> None:
    """Measure and report; a failure of the contender is a report too."""
    try:
        report: dict[str, object] = {"figures": load(row).measure(contender, size == "quick")}
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        report = {"failure": f"{type(error).__name__}: {first_line[:200]}"}
    print("\n" + json.dumps(report), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
