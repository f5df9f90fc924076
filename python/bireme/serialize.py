"""Carry functions, arguments and results between the caller and its workers.

The caller has an `Encoder` a pool, a worker has one `Decoder`. What they
exchange are pickle 5 streams with out-of-band buffers. What plain pickle can
carry stays plain pickle; this module is for the rest: members of ``__main__``
when the workers' ``__main__`` is another module, lambdas, local functions and
classes, and modules that a worker cannot import.

All by-value functions of a module share one namespace in the worker, and a
class travels once: results hold instances of the caller's own class. A name
that a task or an initializer sets stays as it is until the caller's value
changes.

Notes
-----
Importing this module is cheap; cloudpickle is imported at the first by-value
pickle. Everything may be called from any thread.
"""

from __future__ import annotations

from _blake2 import blake2b
from _pickle import dumps as _plain_dumps
from _pickle import loads as _plain_loads
from types import BuiltinFunctionType, FunctionType, ModuleType

from bireme import _checks, _rebuild
from bireme._known import Known, size_of
from bireme._rules import MAIN, Rules

TYPE_CHECKING = False  # importing `typing` costs more than the rest of this module
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pickle import PickleBuffer
    from typing import Any, NoReturn

    from bireme._bundle import Bundle, Sender
    from bireme._fingerprint import Watch
    from bireme._main import Inherited
    from bireme._stream import Stream

__all__ = ["Decoder", "Encoder", "Function", "diagnose", "refresh"]

#: Callables inside of callables that are looked through for a name: an object may make them up.
_WRAPPERS_MAX = 8

Pickled = tuple[bytes, "list[PickleBuffer]"]
Anew = tuple[bytes, "list[PickleBuffer]", Known]


class Function:
    """A function as it goes to the workers; made by `Encoder.encode_function`.

    Attributes
    ----------
    payload : bytes
        The pickle stream.
    buffers : list of pickle.PickleBuffer
        Its large buffers (64 KiB or more, contiguous), in order.
    stable : bool
        Whether the same function object always gives this payload: it goes by
        reference.
    mutable : bool
        Whether it captures or names something that can change in place (dict,
        list, set, instances). Then `unchanged` is not enough: encode again and
        compare `digest`.
    digest : bytes
        Stands for the content: equal for equal payloads with the same large
        buffers.
    carries : frozenset
        What a worker knows once it has loaded this, for `Encoder.dumps`.
    known : Known
        The same, for `Encoder.encode_arguments`.
    name : str
        The function's name with its module, for people.
    unchanged : callable
        Says whether nothing was replaced that the function depends on: below a
        microsecond for one that uses a few names.
    """

    __slots__ = (
        "buffers", "carries", "digest", "known", "mutable", "name", "payload", "stable", "unchanged",
    )  # fmt: skip

    def __init__(
        self,
        payload: bytes,
        buffers: list[PickleBuffer],
        name: str,
        *,
        digest: bytes,
        carries: frozenset[Any] = frozenset(),
        watch: Watch | None = None,
    ) -> None:
        self.payload = payload
        self.buffers = buffers
        self.name = name
        self.digest = digest
        self.carries = carries
        self.known = Known(carries)
        self.stable = watch is None
        self.mutable = watch is not None and watch.mutable
        self.unchanged = _always if watch is None else watch.unchanged

    def __repr__(self) -> str:
        return f"<Function {self.name}, {len(self.payload)} bytes>"


def _always() -> bool:
    return True


class _Side:
    """What both sides do alike."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._made: Sender | None = None

    @property
    def _sender(self) -> Sender:
        if self._made is None:
            from bireme._bundle import Sender

            self._made = Sender(self._rules)
        return self._made

    def _dumps(self, obj: Any, known: frozenset[Any], label: str | Sequence[str]) -> Pickled:
        body, bundle = self._dump(obj, known, label)
        if bundle is None:
            return body.payload, body.buffers
        return bundle.prefix + body.payload, bundle.buffers + body.buffers

    def _dump(
        self, obj: Any, known: frozenset[Any], label: str | Sequence[str]
    ) -> tuple[Stream, Bundle | None]:
        """Pickle a value, and the preamble for it if `known` is not all that it needs."""
        with _rebuild.lock:
            sender = self._made or self._sender
            try:
                body = sender.dump(obj)
                needs = body.needs
                is_known = known.issuperset(needs.units) and known.issuperset(needs.names)
                if is_known and not needs.subclasses:
                    return body, None
                return body, sender.bundle(needs)
            except Exception as error:
                self._explain(error, obj, label)

    def _explain(self, error: Exception, obj: Any, label: str | Sequence[str]) -> NoReturn:
        from bireme._diagnose import explained

        if isinstance(error, MemoryError):
            raise error
        better = explained(error, obj, label, self._rules)
        if better is error:
            raise error
        raise better from error


class Encoder(_Side):
    """The caller's side: one a pool.

    Parameters
    ----------
    by_value_main : bool
        True if the workers' ``__main__`` is not the caller's (they start from a
        clean process). False if workers were forked from the caller or have
        imported its script: then only lambdas and local definitions go by value,
        and functions use the globals that the worker has.
    inherited : Inherited, optional
        For workers that were forked from the caller: what they have of ``__main__``. Its
        members that they lack, or hold another object for, go by value too.
    """

    def __init__(self, by_value_main: bool, inherited: Inherited | None = None) -> None:
        super().__init__(Rules(by_value_main, inherited=inherited))
        self.by_value_main = by_value_main

    def needs_by_value(self, obj: Any) -> bool:
        """Say whether a function or class cannot be imported by the workers.

        Reasons: it belongs to ``__main__`` (with `by_value_main`, or bound there since the
        fork); it is a lambda or a local definition; its module is not importable, or holds another
        object under its name; cloudpickle was told to send its module by value.
        """
        return self._rules.needs_by_value(obj)

    def encode_function(self, fn: Callable[..., Any]) -> Function:
        """Pickle a callable for the workers.

        Parameters
        ----------
        fn : callable
            Any: function, lambda, method, partial, class, instance, builtin.

        Returns
        -------
        Function
            The pickle, and how to know whether it still holds.

        Raises
        ------
        TypeError
            If it cannot be called.
        bireme.errors.PicklingError
            If something in it cannot be pickled; the message says what and where.
        """
        _checks.function("func", fn)
        name = function_name(fn)
        if self._is_importable(fn):
            payload = _plain_dumps(fn, 5)
            watch = self._watch_name(fn)
            return Function(payload, [], name, digest=_digest(payload), watch=watch)
        from bireme._fingerprint import Watch
        from bireme._stream import identity

        with _rebuild.lock:
            try:
                watch = Watch(fn, self._rules, follow=True)
                body, bundle = self._encode_body(fn)
            except Exception as error:
                self._explain(error, fn, function_label(fn))
            payload = bundle.prefix + body.payload
            stamps = repr([identity(buffer) for buffer in body.buffers]).encode()
            return Function(
                payload,
                bundle.buffers + body.buffers,
                name,
                digest=_digest(payload + stamps if body.buffers else payload),
                carries=bundle.carries,
                watch=watch,
            )

    def dumps(
        self, obj: Any, known: frozenset[Any] = frozenset(), label: str | Sequence[str] = "args"
    ) -> Pickled:
        """Pickle arguments that plain pickle refused, or whose stream names ``__main__``.

        Parameters
        ----------
        obj : object
            The arguments.
        known : frozenset, optional
            `Function.carries` of the function that gets them: definitions in it
            are not sent again. Without it they ride along, as bytes that a worker
            skips if it has them.
        label : str or sequence of str, optional
            What to call `obj` in an error, or what to call each of its items.

        Returns
        -------
        payload : bytes
            The pickle stream.
        buffers : list of pickle.PickleBuffer
            Its large buffers, in order.

        Raises
        ------
        bireme.errors.PicklingError
            If something in it cannot be pickled; the message says what and where.
        """
        return self._dumps(obj, known, label)

    def encode_arguments(
        self, obj: Any, function: Function, known: Known, label: str | Sequence[str] = "args"
    ) -> tuple[bytes, list[PickleBuffer], Anew | None]:
        """Pickle arguments as `dumps` does, for a function that workers have.

        Parameters
        ----------
        obj : object
            The arguments.
        function : Function
            What gets them.
        known : Known
            What workers know by the function as it was placed last; at first
            `Function.known`.
        label : str or sequence of str, optional
            What to call `obj` in an error, or what to call each of its items.

        Returns
        -------
        payload : bytes
            The pickle stream.
        buffers : list of pickle.PickleBuffer
            Its large buffers, in order.
        anew : tuple or None
            The function's payload and buffers as it is to be placed before a worker
            gets these arguments, and what is known by it then.

        Raises
        ------
        bireme.errors.PicklingError
            If something in it cannot be pickled; the message says what and where.
        """
        with _rebuild.lock:
            body, bundle = self._dump(obj, known.carries, label)
            if bundle is None or known.covers(bundle):
                return body.payload, body.buffers, None
            if known.rides(bundle, size_of(function.payload, function.buffers)):
                return bundle.prefix + body.payload, bundle.buffers + body.buffers, None
            known, bundle = known.grown(body.needs, bundle, self._sender)
        payload = bundle.prefix + function.payload
        return body.payload, body.buffers, (payload, bundle.buffers + function.buffers, known)

    def loads_result(self, payload: Any, buffers: Sequence[Any] = ()) -> Any:
        """Unpickle a result; instances of by-value classes get the caller's own class."""
        return _plain_loads(payload, buffers=buffers)

    def _is_importable(self, fn: Any) -> bool:
        kind = type(fn)
        if kind is FunctionType or issubclass(kind, type):
            return not self._rules.needs_by_value(fn) and type(None) is not fn
        return kind is BuiltinFunctionType and isinstance(fn.__self__, ModuleType)

    def _watch_name(self, fn: Any) -> Watch | None:
        """Watch what a fork looks up in ``__main__``: should it be bound anew, `fn` goes by value."""
        if self._rules.inherited is None or fn.__module__ not in MAIN:
            return None
        from bireme._fingerprint import Watch

        return Watch(fn, self._rules, follow=False)

    def _encode_body(self, fn: Any) -> tuple[Stream, Bundle]:
        from bireme._by_value import by_name
        from bireme._stream import Needs, Stream

        sender = self._sender
        place = by_name(fn, self._rules)
        if place is None:
            body = sender.dump(fn)
            return body, sender.bundle(body.needs)
        space, name = place
        needs = Needs()
        needs.names[space.label, name] = (space, False)
        bundle = sender.bundle(needs)
        # Exactly this version: a worker may have been told of a newer one.
        call = _Versioned(space.label, name, sender.version((space.label, name)))
        return Stream(_plain_dumps(call, 5), [], needs, {}), bundle


class Decoder(_Side):
    """The worker's side: one a process, made before the first task runs.

    Parameters
    ----------
    by_value_main : bool, optional
        The same as the caller's `Encoder` has.

    Notes
    -----
    Payloads are plain pickle streams: ``pickle.loads(payload, buffers=buffers)``
    does what `loads` does, and classes that came from the caller can be pickled
    by reference if ``__main__`` holds them under their name.
    """

    def __init__(self, by_value_main: bool = True) -> None:
        super().__init__(Rules(by_value_main, returning=True))
        _rebuild.begin()

    def load_function(self, payload: Any, buffers: Sequence[Any] = ()) -> Callable[..., Any]:
        """Unpickle a function; its module's namespace is updated first."""
        fn: Callable[..., Any] = _plain_loads(payload, buffers=buffers)
        return fn

    def loads(self, payload: Any, buffers: Sequence[Any] = ()) -> Any:
        """Unpickle arguments."""
        return _plain_loads(payload, buffers=buffers)

    def dumps_result(self, obj: Any, label: str | Sequence[str] = "result") -> Pickled:
        """Pickle a result that plain pickle refused.

        Classes that came from the caller go back as their id, those that were
        made here with their definition; functions find their globals in the
        caller's module.
        """
        return self._dumps(obj, frozenset(), label)


class _Versioned:
    """Pickles as a look-up of one version of a function."""

    __slots__ = ("call",)

    def __init__(self, label: str, name: str, version: int) -> None:
        self.call = (label, name, version)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild.versioned, self.call)


def function_name(fn: Any) -> str:
    """Return a readable name of any callable: ``module.qualname``. A name stays as it is."""
    if isinstance(fn, str):
        return fn
    inner = fn
    for _ in range(_WRAPPERS_MAX):
        name = text_of(inner, "__qualname__")
        if name is not None:
            text = f"{text_of(inner, '__module__') or 'builtins'}.{name}"
            return text if inner is fn else f"partial of {text}"
        try:
            inner = inner.func
        except Exception:
            break
    kind = type(fn)
    return f"{kind.__module__}.{kind.__qualname__} object"


def text_of(obj: Any, attribute: str) -> str | None:
    """Return an attribute that is a text; an object may answer with anything, or raise."""
    try:
        value = getattr(obj, attribute)
    except Exception:
        return None
    return value if isinstance(value, str) else None


def function_label(fn: Any) -> str:
    """Return how an error names a callable."""
    name = text_of(fn, "__qualname__")
    if name is None:
        return f"the {type(fn).__name__} object"
    return "<lambda>" if name.endswith("<lambda>") else f"function {name!r}"


def refresh(fn: Callable[..., Any]) -> None:
    """Make in-place changes of large buffers visible that a function captured.

    A large array that a function names or captures counts as unchanged while it
    is the same object. Call this after changing its content: the next submit
    sends it again.
    """
    from bireme._fingerprint import touch

    _checks.function("fn", fn)
    owners = []
    for buffer in Encoder(by_value_main=True).encode_function(fn).buffers:
        with buffer.raw() as view:
            owners.append(view.obj)
    touch(owners)


def diagnose(obj: Any, label: str = "object", *, by_value_main: bool = True) -> str:
    """Say what in an object cannot be pickled, where it hides, and how large the rest is."""
    from bireme._diagnose import describe

    return describe(obj, label, Rules(by_value_main))


def _digest(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=16).digest()
