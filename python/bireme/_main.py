"""What the workers of a pool have of the caller's ``__main__`` by themselves."""

from __future__ import annotations

import os
import sys

from bireme import _weak
from bireme._rebuild import ABSENT

TYPE_CHECKING = False  # importing `typing` costs more than the rest of this module
if TYPE_CHECKING:
    from typing import Any


class Inherited:
    """What forked workers have: the names of ``__main__`` as they were at the fork.

    A name that the caller has bound anew since then must be sent, and goes on being sent:
    workers that were forked at different times hold different values under it.

    Attributes
    ----------
    variables : dict
        The live globals of ``__main__``.

    Notes
    -----
    Values are held weakly where that is possible. Others, such as lists and dicts, are kept: the
    next one under the name may lie where one that is gone has lain. The workers keep them anyway.
    """

    def __init__(self) -> None:
        self.variables: dict[str, Any] = vars(sys.modules["__main__"])
        self._values = {name: _weak.hold(value) for name, value in list(self.variables.items())}
        self._changed: set[str] = set()

    def has(self, name: str, value: Any) -> bool:
        """Say whether every worker has just this value (or `ABSENT`) under a name."""
        if name in self._changed:
            return False
        if _weak.held(self._values.get(name, ABSENT)) is value:
            return True
        self._changed.add(name)
        self._values.pop(name, None)
        return False

    def note_fork(self) -> None:
        """Take in that a worker will be forked now: it has the names as they are now."""
        for name in {*self._values, *self.variables}:
            self.has(name, self.variables.get(name, ABSENT))


def imports_main(preparation: dict[str, Any]) -> bool:
    """Say whether a worker that `multiprocessing` prepares so has the caller's functions.

    Parameters
    ----------
    preparation : dict
        From `multiprocessing.spawn.get_preparation_data`.

    Returns
    -------
    bool
        False where ``__main__`` is a prompt, a command line, a program on standard input, a
        file that is gone, or one of those that `multiprocessing` does not import again.
    """
    if sys.flags.interactive or hasattr(sys, "ps1"):
        return False  # what is typed after the script is in no file
    name = preparation.get("init_main_from_name")
    if name is not None:
        return not f".{name}".endswith(".__main__") and _is_found(name)
    path = preparation.get("init_main_from_path")
    if path is None or os.path.splitext(os.path.basename(path))[0] == "ipython":
        return False
    return os.path.exists(path)


def _is_found(name: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
