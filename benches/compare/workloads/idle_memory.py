"""What a pool of two costs in memory when it has nothing to do: PSS of its whole tree, caller included."""

from __future__ import annotations

import subprocess
import time

from benches.compare.memory import tree_pss
from benches.compare.model import Figures, Workload, within
from benches.compare.programs import POOLS, script

WORKLOAD = Workload(
    title="memory of an idle pool of 2 (PSS of the tree)",
    contenders=(*POOLS, "interpreter"),
    bars=(
        within(0.7, "pool-forkserver", "tree_bytes"),
        within(1.3, "pool-fork", "tree_bytes", contender="bireme-fork"),
    ),
    headline="tree_bytes",
    repeats=3,
    note="Read from `smaps_rollup` half a second after a first small map; the caller and every helper process count.",
)


def measure(contender: str, quick: bool) -> Figures:
    """Start the script, let it settle, read its tree."""
    del quick
    with script(contender, "print('ready', flush=True); input()", "range(16)") as command:
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                ready = process.stdout.readline()
                time.sleep(0.5)
                total = tree_pss(process.pid)
            finally:
                process.stdin.write("\n")
                process.stdin.close()
                errors = process.stderr.read() if process.stderr else ""
            assert ready.strip() == "ready", errors.strip()[-300:]
    return {"tree_bytes": float(total)}
