"""What the workers of a pool are born with: surroundings, the initializer, what of ``__main__``."""

from __future__ import annotations

import _pickle as pickle  # `pickle` itself imports much more
import os

from bireme import _core, _multiprocessing, _surroundings
from bireme._inherit import handing_over
from bireme._main import Inherited, imports_main
from bireme.errors import PicklingError
from bireme.serialize import Encoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Heritage:
    """The caller's own objects that a pool's workers need, until the last one is born.

    Forked workers find them in their memory, so nothing of it is pickled. Others open by name, or
    are given the descriptors of, what `multiprocessing` shares.

    Attributes
    ----------
    initializer : callable or None
        Called once in each worker.
    initargs : tuple
        Its arguments.
    """

    def __init__(
        self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
    ) -> None:
        self.initializer = initializer
        self.initargs = initargs


class Boot:
    """Prepare the births of a pool's workers.

    Parameters
    ----------
    name : str
        The pool's.
    processes : int
        Number of workers.
    start_method : str or None
        Where workers come from; None for the default, or for ``"fork"`` where the initializer is
        given what only a fork can have.
    initializer : callable or None
        Called once in each worker.
    initargs : tuple
        Its arguments.
    forward_output : bool
        Whether what workers print comes to this process.

    Attributes
    ----------
    start_method : str
        Where workers come from.
    encoder : Encoder
        Knows what they have of ``__main__``.
    content : tuple of (bytes, list)
        What each reads first: a pickle and its buffers.
    fds : list of int
        Descriptors that it names by position.
    heritage : Heritage or None
        What must stay alive for them.
    names : Inherited or None
        What forked ones have of ``__main__``.

    Raises
    ------
    PicklingError
        If the initializer or its arguments cannot travel.
    """

    def __init__(
        self,
        name: str,
        processes: int,
        start_method: str | None,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        forward_output: bool,
    ) -> None:
        threads = max(1, _core.usable_cpus() // processes)
        boot: dict[str, Any] = {
            "name": name,
            "owner": os.getpid(),
            "threads": threads,
            "forward_output": forward_output,
            "surroundings": _surroundings.capture(threads),
            "multiprocessing": _multiprocessing.capture(),
            "initializer": None,
        }
        self.start_method = start_method or "template"
        self.heritage: Heritage | None = None
        self.names: Inherited | None = None
        self.fds: list[int] = []
        buffers: list[Any] = []
        if self.start_method != "fork":
            by_value_main = self.start_method == "template" or not _prepare(boot)
            self.encoder = Encoder(by_value_main)
            with handing_over() as handing:
                try:
                    buffers = self._add_initializer(boot, initializer, initargs)
                except PicklingError:
                    if start_method is not None or not handing.only_forked:
                        raise
                    self.start_method = "fork"
            self.fds = handing.fds
            if handing.used:
                self.heritage = Heritage(initializer, initargs)
        if self.start_method == "fork":
            by_value_main, self.fds = False, []
            self.heritage = Heritage(initializer, initargs)
            self.names = Inherited()
            self.encoder = Encoder(False, self.names)
        boot["by_value_main"] = by_value_main
        self.content = (pickle.dumps(boot), buffers)

    def _add_initializer(
        self, boot: dict[str, Any], initializer: Any, initargs: tuple[Any, ...]
    ) -> list[Any]:
        if initializer is None:
            return []
        function = self.encoder.encode_function(initializer)
        payload, more = self.encoder.dumps(initargs, label="initargs")
        boot |= {"initializer": function.payload, "initargs": payload}
        boot["split"] = len(function.buffers)
        return [*function.buffers, *more]


def _prepare(boot: dict[str, Any]) -> bool:
    """Add what `multiprocessing` prepares a fresh interpreter with; say whether it imports the script."""
    from multiprocessing.spawn import get_preparation_data

    data: dict[str, Any] = get_preparation_data(boot["name"])
    del data["authkey"], data["name"]  # a worker has both from `_multiprocessing`
    imports = imports_main(data)
    if not imports:
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    boot["preparation"] = data
    return imports
