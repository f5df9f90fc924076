"""The death certificate of a worker, as an exception."""

from __future__ import annotations

import signal

from bireme import errors
from bireme.serialize import function_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def certify(
    fields: dict[str, Any], named: Any, item: int | None, lost: bool, culprit: int | None
) -> BaseException:
    """Make the exception for a call of `named` on `item` whose worker died in item `culprit`."""
    name = function_name(named)
    became = fields.pop("became")
    if not lost:
        culprit = item
    message = _describe(fields, name, item, lost, culprit, became)
    error = errors.WorkerDiedError(
        message, task=name, item=item, lost=lost, died_in=culprit, **fields
    )
    if lost:
        error.add_note("hint: with retries=1 an item that was lost runs again")
    elif fields["oom_killed"]:
        error.add_note("hint: use fewer workers, or give the task less to hold at a time")
    else:
        error.add_note("hint: with retries=1 an item whose worker died is tried once more")
    return error  # type: ignore[no-any-return]


def _describe(
    fields: dict[str, Any],
    name: str,
    item: int | None,
    lost: bool,
    culprit: int | None,
    became: str | None,
) -> str:
    if became is not None:
        how = f"became another program by exec ({became}), which was ended,"
    elif fields["signal"] is not None:
        how = f"was ended by {_signal_name(fields['signal'])}"
    elif fields["exitcode"] is not None:
        how = f"exited with code {fields['exitcode']}"
    else:
        how = "ended, nobody knows how"
    what = name if item is None else f"{name} on item {item}"
    while_ = f"while it ran {what}"
    if lost:
        in_ = "" if culprit is None else f"in item {culprit}, "
        while_ = f"{in_}before the result of {what} had arrived"
    lines = [f"worker {fields['worker']} (pid {fields['pid']}) {how} {while_}"]
    if fields["peak_memory_bytes"]:
        limit = fields["memory_limit_bytes"]
        of = f" of {_mib(limit)} allowed" if limit else ""
        lines.append(f"peak memory: {_mib(fields['peak_memory_bytes'])}{of}")
    if fields["oom_killed"]:
        lines.append("the kernel's OOM killer ended it: it asked for more memory than there is")
    if fields["stack"]:
        lines.append(f"last Python stack:\n{fields['stack'].rstrip()}")
    if fields["last_output"]:
        lines.append(f"last output:\n{fields['last_output'].rstrip()}")
    return "\n".join(lines)
