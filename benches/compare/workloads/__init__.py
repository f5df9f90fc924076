"""One file a row: ``WORKLOAD`` says what is promised, ``measure(contender, quick)`` runs it once and returns figures.

A `measure` function checks every value that its contender returned before it reports a time: it raises otherwise, and
the row then says so.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from benches.compare.model import Figures, Workload

#: The rows, in the order of the table.
ROWS = (
    "apply_async_noop",
    "apply_round_trip",
    "map_million",
    "map_small_chunks",
    "array_argument",
    "array_result",
    "array_both_ways",
    "array_many_readers",
    "first_result",
    "worker_birth",
    "import_cost",
    "idle_memory",
    "heavy_tail",
    "closure_capture",
    "even_tasks",
    "tiny_map",
)


class Row(Protocol):
    """What a workload's module offers."""

    WORKLOAD: Workload

    def measure(self, contender: str, quick: bool) -> Figures:
        """Run the row once with one contender, check its values, return its figures."""


def load(name: str) -> Row:
    """Return the module of the row `name`."""
    return cast("Row", importlib.import_module(f"{__name__}.{name}"))
