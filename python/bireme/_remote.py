"""What crosses the border as an exception, and what workers say beside their results.

`encode` runs in a worker; `Remote` is the owner's side, which the core calls to make
exceptions, to deliver output and log records, and to fork workers.
"""

from __future__ import annotations

import _pickle as pickle  # `pickle` itself imports much more
import os
import sys
from types import FunctionType

from bireme import errors
from bireme._size import LARGEST, cut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from bireme import _core
    from bireme.serialize import Decoder, Encoder

Record = tuple[str, str, str, "bytes | None", bool]


class TaskStopped(BaseException):
    """Raised in a running task that was cancelled or ran out of time."""


def _format(error: BaseException, tb: TracebackType | None) -> str:
    try:
        import traceback  # an import that a task without descriptors or `sys.path` makes fail

        return "".join(traceback.format_exception(type(error), error, tb))
    except Exception as failure:  # or an exception whose __str__ raises
        return f"{_format_frames(tb)}{type(error).__qualname__}: {_text(error)}\n(no source lines: {failure!r})\n"


def _format_frames(tb: TracebackType | None) -> str:
    lines = ["Traceback (most recent call last):\n"]
    while tb is not None:
        code = tb.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {tb.tb_lineno}, in {code.co_name}\n')
        tb = tb.tb_next
    return "".join(lines[:1] + lines[1:][-_MOST_FRAMES:])


# Of a recursion without end, whose last frames tell as much as all.
_MOST_FRAMES = 50


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:
        return f"(its text raised {failure!r})"


def _can_be_made_again(error: BaseException) -> bool:
    """Whether pickle, which calls the class with `args`, makes the exception again."""
    cls = type(error)
    if not isinstance(cls.__init__, FunctionType) and not isinstance(cls.__new__, FunctionType):
        return True
    if isinstance(cls.__reduce__, FunctionType) or isinstance(cls.__reduce_ex__, FunctionType):
        return True  # its author took care
    try:
        cls(*error.args)
    except Exception:
        return False
    return True


class _Revived:
    """Pickles as an exception whose class needs other arguments than those it keeps."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return revive, (type(self.error), self.error.args, self.error.__dict__)


def _sendable(error: BaseException) -> Any:
    """Give what pickles as `error`; the members of a group are seen to as well."""
    if isinstance(error, BaseExceptionGroup) and type(error).__reduce__ is _PLAIN_REDUCE:
        members = [_sendable(member) for member in error.exceptions]
        if any(isinstance(member, (_Revived, _Regrouped)) for member in members):
            return _Regrouped(error, members)
    return error if _can_be_made_again(error) else _Revived(error)


_PLAIN_REDUCE = BaseException.__reduce__


class _Regrouped:
    """Pickles as a group of exceptions some of which need to be revived."""

    def __init__(self, group: BaseExceptionGroup[Any], members: list[Any]) -> None:
        self.group = group
        self.members = members

    def __reduce__(self) -> tuple[Any, ...]:
        return regroup, (type(self.group), self.group.message, self.members, self.group.__dict__)


def regroup(
    cls: type[BaseExceptionGroup[Any]], message: str, members: list[Any], state: dict[str, Any]
) -> BaseException:
    """Make a group of exceptions."""
    group = cls(message, members)
    group.__dict__.update(state)
    return group


def revive(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Make an exception without calling `__init__` or `__new__` of its author."""
    base = next(base for base in cls.__mro__ if not isinstance(base.__new__, FunctionType))
    error: BaseException = base.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def encode(error: BaseException, decoder: Decoder | None = None) -> bytes:
    """Encode `error` so that its story arrives whatever becomes of the object."""
    text = _format(error, error.__traceback__)
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, TaskStopped):
        return pickle.dumps((name, "stopped", text, None, True))
    body: bytes | None
    sent = _sendable(error)
    try:
        body = pickle.dumps(sent, 5)
    except Exception:
        body = None
        if decoder is not None:
            try:
                payload, buffers = decoder.dumps_result(sent)
                body = pickle.dumps((payload, [bytes(buffer.raw()) for buffer in buffers]))
                return pickle.dumps((name, _text(error), text, body, True))
            except Exception:
                body = None
    return pickle.dumps((name, _text(error), text, body, False))


def encode_to_fit(error: BaseException, decoder: Decoder | None = None) -> bytes:
    """Encode `error` for a message: one that is too large travels as its texts."""
    record = encode(error, decoder)
    if len(record) <= LARGEST:
        return record
    name, text, traceback, _, _ = pickle.loads(record)
    most = LARGEST // 16  # characters of up to four bytes
    return pickle.dumps((cut(name, most), cut(text, most), cut(traceback, most), b"", False))


class Remote:
    """The owner's side of what workers report.

    Parameters
    ----------
    encoder : Encoder
        Knows the classes that travelled by value.
    fork : callable
        Forks the workers that a client wants (`start_method="fork"`).
    prepares : bool
        Whether workers run the user's code before their first task: an initializer, the main module.
    preloads : bool
        Whether their template does.
    """

    def __init__(
        self,
        encoder: Encoder,
        fork: Callable[[_core.Client], None],
        prepares: bool,
        preloads: bool,
    ) -> None:
        self._encoder = encoder
        self._fork = fork
        self._prepares = prepares
        self._preloads = preloads

    def rebuild(
        self,
        record: bytes,
        worker: int,
        limit: float | None,
        named: Any = None,
        index: int | None = None,
    ) -> BaseException:
        """Make the exception that a task raised; `limit` are the seconds that it ran longer than."""
        name, text, traceback, body, by_value = pickle.loads(record)
        if name.endswith("TaskStopped") and body is None:
            return self.stopped(limit, index, index is None, named)
        error: Any = None
        reason = "it cannot be pickled" if body is None else "it is too large"
        if body:
            try:
                if by_value:
                    payload, buffers = pickle.loads(body)
                    error = self._encoder.loads_result(payload, buffers)
                else:
                    error = pickle.loads(body)
            except Exception as failure:
                reason = f"unpickling it raised {failure!r}"
        if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
            reason = "raised here it would end more than this task"
            error = None
        if not isinstance(error, BaseException):
            message = f"a task raised {name}: {text} (as a stand-in: {reason})"
            error = errors.RemoteError(message, name, text)
        with room("a task failed, and its traceback"):
            error.__cause__ = errors.RemoteTraceback(traceback)
        return error  # type: ignore[no-any-return]

    def undecodable_result(self, failure: BaseException, worker: int) -> BaseException:
        """Make the exception for a result that cannot be unpickled here."""
        message = f"the result of a task on worker {worker} cannot be unpickled: {failure!r}"
        error = errors.RemoteError(message, type(failure).__qualname__, _text(failure))
        error.__cause__ = failure
        return error

    def loads_by_value(self, payload: bytes, buffers: list[Any]) -> Any:
        """Unpickle what a worker pickled by value."""
        return self._encoder.loads_result(payload, buffers)

    def worker_died(
        self,
        fields: dict[str, Any],
        named: Any,
        index: int,
        lost: bool,
        culprit: int | None,
        single: bool,
    ) -> BaseException:
        """Make the exception for an item whose worker died, in item `culprit` if not in this one."""
        with room(f"worker {fields['worker']} (pid {fields['pid']}) died, and its certificate"):
            from bireme._certificate import certify

            return certify(fields, named, None if single else index, lost, culprit)

    def stopped(
        self, limit: float | None, index: int | None, single: bool, named: Any = None
    ) -> BaseException:
        """Make the exception for a task that was stopped: cancelled, or after `limit` seconds."""
        which = "the task"
        if named is not None:
            from bireme.serialize import function_name

            which = function_name(named)
        if not single and index is not None:
            which += f" on item {index}"
        with room("a task was stopped, and its error"):
            kind = errors.CancelledError if limit is None else errors.TaskTimeoutError
        if limit is None:
            return kind(f"{which} was cancelled")
        error = kind(f"{which} ran longer than its task_timeout of {limit:g} s, and was stopped")
        error.add_note("hint: the time counts from the start of the item, not from its submission")
        return error

    def terminated(self) -> BaseException:
        """Make the exception for what had not ended when its pool was terminated."""
        with room("the pool was terminated, and the error of its tasks"):
            return errors.CancelledError("the pool was terminated before this task had ended")

    def initializer_failed(self, record: bytes) -> BaseException:
        """Make the exception for a pool whose initializer raised."""
        cause = self.rebuild(record, 0, None)
        story = getattr(cause.__cause__, "tb", "")
        error = errors.InitializerError(
            f"the pool's initializer raised {cause!r}\n{story}".rstrip()
        )
        error.__cause__ = cause
        return error

    def initializer_died(self, story: str) -> BaseException:
        """Make the exception for a pool whose workers die before they are ready."""
        if not self._prepares:
            return self._nobody_lives(f"workers die while they start: {story}")
        message = f"workers die while they start (in the initializer or an import): {story}"
        return errors.InitializerError(message)

    def _nobody_lives(self, message: str) -> BaseException:
        with room("workers die, and their error"):
            return errors.WorkerDiedError(message)  # type: ignore[no-any-return]

    def killed_unborn(self, story: str) -> BaseException:
        """Make the exception for a pool whose workers are killed before they are ready."""
        culprits = "another process, the kernel"
        if self._prepares:
            culprits += ", the initializer or what is imported"
        return self._nobody_lives(
            f"workers are killed while they start, by {culprits}: {story}; the pool goes on trying"
        )

    def killed_idle(self, story: str) -> BaseException:
        """Make the exception for a pool whose workers are killed before their first task."""
        return self._nobody_lives(
            "workers are killed as soon as they are ready, before any task, by another process or the "
            f"kernel: {story}; the pool goes on trying"
        )

    def workers_die(self, story: str) -> BaseException:
        """Make the exception for a pool whose workers die before their first task."""
        return self._nobody_lives(
            f"workers die as soon as they are ready, before any task: {story}"
        )

    def cannot_start(self, story: str) -> BaseException:
        """Make the exception for a pool that gets no processes."""
        return resource_error(f"no worker can be started: {story}")

    def template_failed(self, story: str) -> BaseException:
        """Make the exception for a pool whose template cannot fork, or ends by itself."""
        return errors.InitializerError(f"no worker can be started: {story}")

    def template_killed(self, signal: int, is_fault: bool, story: str) -> BaseException:
        """Make the exception for a pool of which a signal, perhaps for a fault, ends template after template."""
        if is_fault and self._preloads:
            return self.template_failed(story)
        culprits = "another process or the kernel"
        if self._preloads:
            culprits = "another process, the kernel or what is preloaded"
        return self._nobody_lives(
            f"the template process is killed again and again (signal {signal}), by {culprits}; "
            "the pool goes on trying"
        )

    def no_memory(self, story: str) -> BaseException:
        """Make the exception for arguments or a result that shared memory has no room for."""
        if "memory budget" in story:
            story += " (the pool's object_memory)"
        return resource_error(story)

    def overwritten(self) -> BaseException:
        """Make the exception for a task whose words in shared memory somebody else has written."""
        error = errors.RemoteError("what shared memory says of the task was overwritten")
        error.add_note("hint: code in a worker, perhaps a C extension, writes where it may not")
        return error

    def forked(self, owner: int) -> BaseException:
        """Make the exception for use in a forked child."""
        return errors.ForkedError(
            f"this pool belongs to process {owner}; a forked child must make its own"
        )

    def wait_timed_out(self) -> BaseException:
        """Make the exception for a wait that is over."""
        with room("the wait is over, and its error"):
            return errors.WaitTimeoutError("the result is not there yet; the task goes on")

    def fork_workers(self, client: _core.Client) -> None:
        """Fork the workers that are wanted."""
        self._fork(client)

    def deliver(self, stream: int, data: bytes) -> None:
        """Write what a worker printed (to stream 1 or 2), or handle what it logged (0)."""
        if stream == 0:
            from bireme._logs import handle

            handle(data)
            return
        target = getattr(sys, "stdout" if stream == 1 else "stderr", None)
        if target is None:
            return
        try:
            target.write(data.decode("utf-8", "backslashreplace"))
            flush = getattr(target, "flush", None)  # `print` needs none either
            if flush is not None:
                flush()
        except (OSError, ValueError):  # a closed pipe or stream: the program goes on
            return


_spare: int | None = None


def keep_spare() -> None:
    """Keep a descriptor, so that an error can be told when this process may open no file."""
    global _spare
    if _spare is None:
        surplus: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        _spare, surplus = surplus, _spare  # another thread may have been faster
        if surplus is not None:
            os.close(surplus)


def _lend() -> None:
    global _spare
    if (spare := _spare) is not None:
        _spare = None
        os.close(spare)


def _take_back() -> None:
    try:
        keep_spare()
    except OSError:
        pass  # the next one may be luckier


class room:  # noqa: N801  (a context manager, used like a function)
    """Lend the spare descriptor to what is imported inside.

    Another thread may be faster: then `what` could not be loaded, and the limit is named.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        _lend()

    def __exit__(self, _: object, failure: BaseException | None, __: object) -> None:
        _take_back()
        if failure is not None and _lacks_descriptor(failure):
            raise resource_error(f"{self._what} cannot be loaded: {failure}") from None


def _lacks_descriptor(failure: BaseException) -> bool:
    if isinstance(failure, ImportError):  # of a library: only the text tells why
        return os.strerror(24) in str(failure) or os.strerror(23) in str(failure)
    return isinstance(failure, OSError) and failure.errno in (23, 24)  # ENFILE, EMFILE


def resource_error(story: str) -> BaseException:
    """Make the error for a limit that was reached, naming the limits that may be behind it."""
    error = errors.ResourceLimitError(_name_limit(story))
    _lend()
    try:
        import resource
    except (ImportError, OSError):  # another thread was faster
        return error
    finally:
        _take_back()
    names = {
        "nofile": resource.RLIMIT_NOFILE,
        "nproc": resource.RLIMIT_NPROC,
        "fsize": resource.RLIMIT_FSIZE,
    }
    soft = {name: resource.getrlimit(number)[0] for name, number in names.items()}
    set_ones = [f"RLIMIT_{name.upper()}={value}" for name, value in soft.items() if value >= 0]
    error.add_note(
        f"hint: limits of this process: {', '.join(set_ones) or 'none'}; see `ulimit -a`"
    )
    return error


_LIMITS = {
    11: "RLIMIT_NPROC (processes and threads of this user) or the cgroup's pids.max",
    12: "memory: RLIMIT_AS, or the system's",
    23: "fs.file-max (open files of the whole system)",
    24: "RLIMIT_NOFILE (open files of this process)",
    27: "RLIMIT_FSIZE (size of a file, shared memory too)",
    28: "memory for shared segments",
}


def _name_limit(story: str) -> str:
    """Add the name of the limit behind the system error that `story` tells of."""
    for number, name in _LIMITS.items():
        if f"(os error {number})" in story or f"[Errno {number}]" in story:
            return f"{story}: the limit is {name}"
    return story
