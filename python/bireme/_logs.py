"""Log records made in tasks, handled by the caller's handlers."""

from __future__ import annotations

import logging
import pickle
import sys

from bireme import _core
from bireme._size import LARGEST, cut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({})))


class Forwarder(logging.Handler):
    """Sends each record to the owner of the pool, with the task and the worker it came from.

    Records get ``task`` (an id of the task), ``item`` (the index of the item it was at) and
    ``worker``.

    Parameters
    ----------
    send : callable
        Takes the encoded record.
    worker : int
        Number of this worker; records get it as ``record.worker``.
    name : str
        What `multiprocessing` calls this process, or would if it were loaded.
    """

    def __init__(self, send: Callable[[bytes], None], worker: int, name: str) -> None:
        super().__init__()
        self._send = send
        self._worker = worker
        self._process_name = name

    def emit(self, record: logging.LogRecord) -> None:
        """Send `record`; its arguments and exception become text first."""
        try:
            fields = dict(record.__dict__)
            fields["msg"], fields["args"] = record.getMessage(), None
            if record.exc_info:
                fields["exc_text"] = logging.Formatter().formatException(record.exc_info)
                fields["exc_info"] = None
            task = _core.current_task()
            fields["task"], fields["item"] = (None, None) if task is None else task[:2]
            fields["worker"] = self._worker
            if "multiprocessing" not in sys.modules and logging.logMultiprocessing:
                fields["processName"] = self._process_name
            try:
                data = pickle.dumps(fields, 5)
            except Exception:  # extra= fields that do not pickle
                plain = (str, int, float, type(None))
                fields = {k: v for k, v in fields.items() if isinstance(v, plain)}
                data = pickle.dumps(fields, 5)
            if len(data) > LARGEST:
                data = pickle.dumps(_made_to_fit(fields), 5)
            self._send(data)
        except Exception:
            self.handleError(record)


def _made_to_fit(fields: dict[str, Any]) -> dict[str, Any]:
    """Cut the texts, and replace what else is too large by a note, until `LARGEST` bytes hold all."""
    sizes = {name: len(pickle.dumps(value, 5)) for name, value in fields.items()}
    left = LARGEST - (64 << 10)  # the names, the pickle's frame
    fitting = {}
    # What every record has comes first, and what is small before what is large.
    for name in sorted(fields, key=lambda name: (name not in _STANDARD, sizes[name])):
        value, size = fields[name], sizes[name]
        if size > left:
            note = f"(left out: {type(value).__name__} of {size} bytes)"
            value = cut(value, left // 8) if isinstance(value, str) else note
            size = len(pickle.dumps(value, 5))
        if size <= left:
            fitting[name] = value
            left -= size
    return fitting


def handle(data: bytes) -> None:
    """Give a record of a worker to the caller's loggers."""
    record = logging.makeLogRecord(pickle.loads(data))
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        try:
            logger.handle(record)
        except Exception:
            if logging.raiseExceptions:
                raise  # to whoever delivers, who reports it: it concerns nobody that waits for a result


def levels() -> tuple[int, dict[str, int]]:
    """Give what `logging.disable` was told, and the levels of the loggers that have one."""
    root = logging.getLogger()
    found = {logger.name: logger.level for logger in _loggers() if logger.level}
    return root.manager.disable, {"": root.level, **found}


def is_used() -> bool:
    """Whether any logger has a level or a handler, as none has when `logging` was just imported."""
    root = logging.getLogger()
    if root.handlers or root.level != logging.WARNING or root.manager.disable:
        return True
    return any(logger.level or logger.handlers for logger in _loggers())


def _loggers() -> list[logging.Logger]:
    named = list(logging.Logger.manager.loggerDict.values())
    return [logger for logger in named if isinstance(logger, logging.Logger)]


def install(
    send: Callable[[bytes], None],
    worker: int,
    name: str,
    levels: tuple[int, dict[str, int]] | None,
) -> None:
    """Let every record of this worker travel to the owner, whose loggers filter and handle it."""
    root = logging.getLogger()
    for logger in [root, *_loggers()]:
        logger.handlers.clear()
        logger.filters.clear()
        logger.propagate = True
    root.addHandler(Forwarder(send, worker, name))
    if levels is None:
        return
    disabled, of_loggers = levels
    logging.disable(disabled)
    for name, level in of_loggers.items():
        logging.getLogger(name or None).setLevel(level)
