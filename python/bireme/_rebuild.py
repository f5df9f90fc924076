"""Rebuild, in this process, what another process sent by value.

Every payload made by `bireme.serialize` is an ordinary pickle 5 stream, which
``pickle.loads(payload, buffers=...)`` reads in any process that can import
bireme. What travels by value is rebuilt by the functions below, which the
stream names. They share one table a process:

- *units*: by-value classes, under an id that is unique among all processes;
- *namespaces*: the globals of by-value functions, one dictionary a module;
- *held*: the version of each global name that was last set from the caller;
- *parts*: the objects that its value then consisted of, for names that share them.

What a namespace held at this process's birth is the caller's, too. A name that exists in it
and was neither there nor sent was set by a task, and stays.

A payload that needs definitions starts with a *preamble*, a call of `enter`
that runs before the rest of the stream. Its parts are nested bytes: what is
known already is skipped without being unpickled. A class is made by `_skeleton`, known under its
id from then on, given its functions, which are still empty, and filled; its definition and a
name's value may ask for others meanwhile, and refer to their functions.
"""

from __future__ import annotations

import os
import sys
import types
import weakref
from _io import BytesIO
from _pickle import Unpickler, loads
from _thread import RLock

from bireme import _anonymous, _weak
from bireme._outlines import outlined_functions

TYPE_CHECKING = False  # importing `typing` costs more than the rest of this module
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


class _Absent:
    """Stands for a name that is not set, or an empty cell."""


ABSENT = _Absent()

#: Guards every table of this module, and the encoders' too.
lock: Any = RLock()

_units: dict[str, weakref.ref[type]] = {}
uids: dict[int, tuple[weakref.ref[type], str]] = {}
#: Units that the caller sent. A later payload may name them without their
#: definition, so they stay; the caller has them, so results only name them.
kept: dict[str, type] = {}
_unit_versions: dict[str, int] = {}
_pending: dict[str, tuple[Any, ...]] = {}
#: The functions of each class that others may refer to, by the caller's number. They stay the same
#: ones while the class changes: what holds one still holds the class's own then.
_outlined: dict[str, dict[int, types.FunctionType]] = {}
#: Newer definitions of classes that are here.
_changed: dict[str, tuple[Any, ...]] = {}

#: Namespaces that are not those of importable modules, and their labels; but see `_anonymous`.
namespaces: dict[str, dict[str, Any]] = {}
labels: dict[int, str] = {}
_modules: list[types.ModuleType] = []

#: (namespace label, name) -> (version, the value if it is a function or None).
held: dict[tuple[str, str], tuple[int, Any]] = {}
#: Namespace label -> the names that it had at this process's birth.
_inherited: dict[str, dict[str, Any]] = {}
#: (namespace label, name) -> its record and that one's buffers, while a preamble is taken in.
_waiting: dict[tuple[str, str], tuple[tuple[Any, ...], Sequence[Any]]] = {}
#: (namespace label, name) -> (version, the mutable objects in the value as it was set then).
_parts: dict[tuple[str, str], tuple[int, list[Any]]] = {}
#: The same as `_waiting`, of all names of the preamble, and copies of their parts.
_records: dict[tuple[str, str], tuple[tuple[Any, ...], Sequence[Any]]] = {}
_copies: dict[tuple[str, str], list[Any]] = {}
#: What is being read, and the classes whose content refers to that.
_loading: set[tuple[str, str]] = set()
_deferred: list[tuple[Any, ...]] = []
#: Classes, by ``id``, that are not to be given what is read.
spared: set[int] = set()
#: (namespace label, name, version) -> a record, its buffers, the position in it, its `_records`.
_older: dict[tuple[str, str, int], tuple[tuple[Any, ...], Sequence[Any], int, Any]] = {}
_seen: dict[bytes, None] = {}
_SEEN_MAX = 4096

#: What else a function consists of.
_SLOTS = [
    name
    for name in (
        "__defaults__", "__kwdefaults__", "__annotations__", "__type_params__", "__name__",
        "__qualname__", "__module__", "__doc__",
    )
    if hasattr(types.FunctionType, name)
]  # fmt: skip
_token = ""
_counter = 0


def unique() -> str:
    """Return an id that no other process makes."""
    global _token, _counter
    if not _token:
        _token = f"{os.getpid():x}.{os.urandom(6).hex()}"
    _counter += 1
    return f"{_token}.{_counter}"


def _after_fork_in_child() -> None:
    global lock, _token
    lock = RLock()
    _token = ""


os.register_at_fork(after_in_child=_after_fork_in_child)


def uid_of(cls: type) -> str:
    """Return the id of a by-value class, giving it one if it has none."""
    known = uids.get(id(cls))
    if known is not None and known[0]() is cls:
        return known[1]
    uid = unique()
    _register(uid, cls)
    return uid


def _register(uid: str, cls: type) -> None:
    key = id(cls)

    def forget(dead: weakref.ref[type]) -> None:
        if (known := uids.get(key)) is not None and known[0] is dead:
            del uids[key]
        if _units.get(uid) is dead:
            del _units[uid]

    reference = weakref.ref(cls, forget)
    uids[key] = (reference, uid)
    _units[uid] = reference


def begin() -> None:
    """Start as a worker: what is here by now is the caller's, or nobody's."""
    # The caller that forked us may be a worker: these are about what it was sent itself.
    for table in (held, _waiting, _parts, _older, _seen, _unit_versions, _outlined):
        table.clear()
    namespaces.update(_anonymous.living())
    _inherited["__main__"] = dict(vars(sys.modules["__main__"]))
    _inherited.update((label, dict(variables)) for label, variables in namespaces.items())
    for uid, reference in list(_units.items()):
        if (cls := reference()) is not None:
            kept[uid] = cls


def is_inherited(label: str) -> bool:
    """Say whether a namespace was here at this process's birth."""
    return label in _inherited


def unit(uid: str) -> type:
    """Return the class with this id, building it from the preamble if new."""
    cls = _known(uid)
    if cls is None:
        record = _pending.get(uid)
        if record is None:
            raise LookupError(f"the class with id {uid} is gone, or its definition never came")
        cls = _build(record)
    return cls


def is_known(uid: str) -> bool:
    """Say whether the class with this id is here."""
    return _known(uid) is not None


def _known(uid: str) -> type | None:
    reference = _units.get(uid)
    return reference() if reference is not None else None


def _build(record: tuple[Any, ...]) -> type:
    keep, home, skeleton, after, content, buffers = record
    uid = content[0]
    make, arguments, tracker = _loads(skeleton)
    if (cls := _known(uid)) is not None:
        return cls  # a base or a metaclass refers to it, and has had it built
    cls = _tracked(tracker, make(*arguments))
    _register(uid, cls)
    _pending.pop(uid, None)
    _unit_versions[uid] = content[2][0][1]
    _outline(cls, content)
    if keep:
        kept[uid] = cls
        if home is not None:
            label, attributes, name = home
            # Under its name a plain pickle of an instance finds it.
            variables = namespace(label, attributes)
            if _is_callers(label, name, variables):
                variables[name] = cls
                held.setdefault((label, name), (0, cls))
    _fill(keep, after, content, buffers)
    return cls


def _fill(keep: bool, after: list[tuple[str, str]], content: Any, buffers: Sequence[Any]) -> None:
    """Give a class what it consists of, at once or when the names that it refers to have been read."""
    if not _loading.isdisjoint(after):
        _deferred.append((keep, after, content, buffers))
        return
    uid, _, [(_, version, _)], *_ = content
    try:
        _, [parts] = _load_record(content, buffers)
    except BaseException:  # the next payload that brings it shall not find half of it
        kept.pop(uid, None)
        _units.pop(uid, None)
        _outlined.pop(uid, None)
        raise
    if keep:
        _parts[uid, ""] = (version, parts)
    else:
        _outlined.pop(uid, None)
    _fill_deferred()


def _fill_deferred() -> None:
    for waiting in list(_deferred):
        if waiting in _deferred and _loading.isdisjoint(waiting[1]):
            _deferred.remove(waiting)
            _fill(*waiting)


def _outline(cls: Any, content: tuple[Any, ...]) -> None:
    """Give a class its functions before anything is read that may refer to them."""
    uid, outlines, *_ = content
    origin, made = _loads(outlines)
    functions = _outlined[uid] = outlined_functions(made, _outlined.get(uid, {}))
    for serial, names, *_ in made:
        for name in names:
            if vars(cls).get(name) is not functions[serial]:
                origin.__setattr__(cls, name, functions[serial])


def outlined(uid: str, serial: int) -> types.FunctionType:
    """Return a function of a class that is being filled."""
    return _outlined[uid][serial]


def cell(uid: str, serial: int, position: int) -> types.CellType:
    """Return what holds one of its captured values."""
    closure: Any = _outlined[uid][serial].__closure__
    return closure[position]  # type: ignore[no-any-return]


def _tracked(tracker: str, cls: type) -> type:
    """Let cloudpickle know the class, too: one that the user calls meets the same."""
    from cloudpickle import cloudpickle as internals

    tracked: type = internals._lookup_class_or_track(tracker, cls)
    return tracked


def _loads(payload: bytes, buffers: Sequence[Any] = (), load: Callable[..., Any] = loads) -> Any:
    """Unpickle a part of a preamble.

    Code that this runs may use a global whose turn has not come: it is set, and all is done anew.
    """
    while True:
        try:
            return load(payload, buffers=buffers)
        except NameError as error:
            record = _missing(error)
            if record is None:
                raise
        _set_names(*record)


def _missing(error: NameError) -> tuple[tuple[Any, ...], Sequence[Any]] | None:
    """Return the waiting record of the global that some code did not find."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return None
    label = labels.get(id(trace.tb_frame.f_globals), "")
    return _waiting.get((label, error.name or ""))


def _load_record(record: tuple[Any, ...], buffers: Sequence[Any]) -> tuple[Any, list[list[Any]]]:
    """Unpickle the values of names, or what fills a class; give the parts of each, too."""
    label, _, names, payload, first, last = record
    if not payload:
        return (ABSENT,), [[]]
    source = list(buffers[first:last])
    keys = {(label, name) for name, *_ in names} - _loading
    _loading.update(keys)
    try:
        if not any(places for *_, places in names):
            return _loads(payload, source), [[] for _ in names]
        values, memo = _loads(payload, source, _loads_with_memo)
    finally:
        _loading.difference_update(keys)
    return values, [[memo.get(place, ABSENT) for place in places] for *_, places in names]


def _loads_with_memo(payload: bytes, *, buffers: Sequence[Any]) -> tuple[Any, dict[int, Any]]:
    file = BytesIO(payload)
    unpickler = Unpickler(file, buffers=buffers)
    value = unpickler.load()
    if file.tell() < len(payload):  # that were the objects which it shares with others
        value = unpickler.load()
    return value, unpickler.memo.copy()


def part(label: str, name: str, version: int, position: int) -> Any:
    """Return an object that the value of a name, or a class, consisted of at this version.

    It is the one that is here, whatever tasks have made of it. If it is gone: a copy.
    """
    key = (label, name)
    with lock:
        if not name:
            _bring(label)
        elif (record := _waiting.get(key)) is not None:
            _set_names(*record)
        have, parts = _parts.get(key, (0, []))
        if have == version:
            found = _weak.held(parts[position])
            if found is not _weak.GONE and found is not ABSENT:
                return found
        if key not in _copies:
            _copy(*_records[key])
        return _copies[key][position]


def _copy(record: tuple[Any, ...], buffers: Sequence[Any]) -> None:
    """Make the parts of what is here already once more."""
    label, outlines, names, *_ = record
    mine = {id(_known(label))} - spared
    spared.update(mine)
    own = _outlined.pop(label, None)
    if isinstance(outlines, bytes):  # it is a class
        _outlined[label] = outlined_functions(_loads(outlines)[1], {})
    try:
        _, parts = _load_record(record, buffers)
    finally:
        spared.difference_update(mine)
        _outlined.pop(label, None)
        if own is not None:
            _outlined[label] = own
    _copies.update(((label, name), copied) for (name, *_), copied in zip(names, parts, strict=True))


def namespace(label: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the globals shared by all functions of a by-value module."""
    variables = namespaces.get(label)
    if variables is None:
        if label == "__main__":
            module = sys.modules["__main__"]
        else:
            module = types.ModuleType(attributes.get("__name__") or label)
            module.__dict__.update(attributes)
            if "#" not in label:
                sys.modules.setdefault(label, module)
        _modules.append(module)
        variables = namespaces[label] = module.__dict__
        labels[id(variables)] = label
    return variables


def home(label: str) -> dict[str, Any]:
    """Return the globals which this process has by itself."""
    variables = namespaces.get(label)
    if variables is None:
        variables = _anonymous.find(label)
    if variables is None:
        if "#" in label:
            name = label.partition("#")[0]
            raise LookupError(f"the globals of {name!r} are gone: nothing here uses them any more")
        variables = imported(label).__dict__
    return variables


def imported(name: str) -> types.ModuleType:
    """Import a module by its full name."""
    __import__(name)
    return sys.modules[name]


def module(label: str, attributes: dict[str, Any]) -> types.ModuleType:
    """Return the module object of a by-value namespace."""
    variables = namespace(label, attributes)
    return next(m for m in _modules if m.__dict__ is variables)


def function(
    variables: dict[str, Any], code: types.CodeType, cells: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    """Make a function whose captured values are still to come."""
    return types.FunctionType(code, variables, None, None, cells)


def fill_function(
    fn: types.FunctionType,
    state: tuple[
        tuple[tuple[str, Any], ...],
        dict[str, Any],
        tuple[tuple[types.CellType, Any], ...],
        tuple[tuple[str, Any], ...],
        tuple[str, ...],
    ],
) -> None:
    """Give a function its attributes, captured values, globals that came with it, and imports."""
    slots, attributes, contents, variables, imports = state
    for name in imports:
        __import__(name)
    for cell, content in contents:
        cell.cell_contents = content
    for name, value in variables:
        fn.__globals__.setdefault(name, value)
    for name, value in slots:
        setattr(fn, name, value)
    if attributes:
        fn.__dict__.update(attributes)


def fill_outlined(fn: types.FunctionType, state: Any) -> None:
    """Fill a function that may have been filled before."""
    blank = types.FunctionType(fn.__code__, fn.__globals__, None, None, fn.__closure__)
    for name in _SLOTS:
        setattr(fn, name, getattr(blank, name))
    fn.__dict__.clear()
    fill_function(fn, state)


def named(label: str, name: str) -> Any:
    """Return the function, or what else is pickled by name, as the peer sent it last."""
    if _waiting:
        with lock:
            if (record := _waiting.get((label, name))) is not None:
                _set_names(*record)
    value = held.get((label, name), (0, None))[1]
    return value if value is not None else home(label)[name]


def versioned(label: str, name: str, version: int) -> Any:
    """Return a function at exactly this version, even if a newer one came."""
    have = held.get((label, name), (0, None))
    if have[0] == version and have[1] is not None:
        return have[1]
    record, buffers, position, records = _older[label, name, version]
    with lock:
        _begin_records(records)
        return _load_record(record, buffers)[0][position]


def enter(digest: bytes, preamble: bytes, buffers: Sequence[Any]) -> list[type]:
    """Take in the definitions which the rest of a payload needs; give its classes.

    Nothing else may refer to those until the rest has been read.
    """
    if digest in _seen:
        return []
    with lock:
        keep, units, names = loads(preamble)
        # Their values may look each other up: whichever is asked for is set first.
        _waiting.update(((r[0], name), (r, buffers)) for r in names for name, *_ in r[2])
        _begin_records({**_waiting, **{(u[3][0], ""): (u[3], buffers) for u in units}})
        try:
            _take_units(keep, units, buffers)
            for record in names:
                _set_names(record, buffers)
            classes = [unit(u[3][0]) for u in units]
        finally:
            for table in (_waiting, _changed, _deferred):
                table.clear()
            _begin_records({})
        if keep:  # what is not kept may be gone when the same preamble comes again
            if len(_seen) >= _SEEN_MAX:
                del _seen[next(iter(_seen))]
            _seen[digest] = None
        return classes


def _begin_records(records: dict[tuple[str, str], tuple[tuple[Any, ...], Sequence[Any]]]) -> None:
    global _records
    _records = records
    _copies.clear()


def _take_units(keep: bool, units: list[tuple[Any, ...]], buffers: Sequence[Any]) -> None:
    """Put new classes by until they are asked for; bring older ones up to date."""
    for where, skeleton, after, content in units:
        uid, _, [(_, version, _)], *_ = content
        if _known(uid) is None:
            _pending[uid] = (keep, where, skeleton, after, content, buffers)
        elif keep and _unit_versions.setdefault(uid, version) < version:
            _unit_versions[uid] = version
            _changed[uid] = (keep, after, content, buffers)
    for uid, (_, _, content, _) in _changed.items():
        _outline(unit(uid), content)
    for uid in list(_changed):
        _bring(uid)


def _bring(uid: str) -> None:
    """Have a class here, and up to date."""
    if (changed := _changed.pop(uid, None)) is not None:
        _fill(*changed)
    else:
        unit(uid)


def bring(cls: type) -> None:
    """Have a class that is here up to date."""
    _, uid = uids.get(id(cls), (None, ""))
    if uid in _changed:
        _bring(uid)


def _set_names(record: tuple[Any, ...], buffers: Sequence[Any]) -> None:
    """Set globals of one namespace, each only if this version of it is newer.

    A name that was never sent but exists was set by a task: it stays. Without a payload the
    caller has deleted the name.
    """
    label, attributes, names, *_ = record
    for name, *_ in names:
        _waiting.pop((label, name), None)
    if all(held.get((label, name), (-1,))[0] == version for name, version, _ in names):
        return
    variables = namespace(label, attributes)
    values: tuple[Any, ...] | None = None
    for position, (name, version, _) in enumerate(names):
        have = held.get((label, name))
        if have is not None and have[0] >= version:
            if have[0] > version:
                _older[label, name, version] = (record, buffers, position, _records)
            continue
        if values is None:
            values, parts = _load_record(record, buffers)
        value = values[position]
        held[label, name] = (version, value if is_definition(value) else None)
        # Weakly: what a task drops shall be gone.
        _parts[label, name] = (version, list(map(_weak.hold, parts[position])))
        if have is None and not _is_callers(label, name, variables):
            continue
        if value is ABSENT:
            variables.pop(name, None)
        else:
            variables[name] = value
    _fill_deferred()


def _is_callers(label: str, name: str, variables: dict[str, Any]) -> bool:
    """Say whether a name that was never sent is free, or as it was at this process's birth."""
    value = variables.get(name, ABSENT)
    return value is ABSENT or value is _inherited.get(label, {}).get(name, ABSENT)


def is_definition(value: Any) -> bool:
    """Say whether a value is one that other payloads refer to by its name."""
    return isinstance(value, types.FunctionType) or type(value).__name__ == "_lru_cache_wrapper"
