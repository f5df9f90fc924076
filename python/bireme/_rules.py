"""Which functions, classes and modules travel by value, and whose globals they use."""

from __future__ import annotations

import sys

from bireme import _anonymous, _rebuild, _weak
from bireme._rebuild import ABSENT

TYPE_CHECKING = False  # importing `typing` costs more than the rest of this module
if TYPE_CHECKING:
    from types import FunctionType, ModuleType
    from typing import Any

    from bireme._main import Inherited

#: The caller's script, and the name it has in a spawned worker.
MAIN = ("__main__", "__mp_main__")
#: What `runpy.run_path` calls each script: for as long as it runs, there is a module of that name.
RUN_PATH = "<run_path>"
_FIXED = ("__name__", "__package__", "__file__", "__path__")

#: By name: a module, held weakly, and whether it is.
_importable: dict[str, tuple[Any, bool]] = {}


class Namespace:
    """The globals of by-value functions: a module's, or those of an `exec`.

    Attributes
    ----------
    label : str
        The module's name, or a unique one.
    travels : bool
        Whether the names that functions use are sent along. False for a module
        that the peer has by itself.
    is_private : bool
        Whether only this process has them, and no peer is to keep them: each stream
        has those that its functions use.
    attributes : dict
        What a module object made for it starts with (``__name__`` and so on).
    inherited : Inherited, optional
        What the peer has of it by itself.
    """

    __slots__ = ("_variables", "attributes", "inherited", "is_private", "label", "travels")

    def __init__(
        self,
        label: str,
        variables: dict[str, Any],
        travels: bool,
        inherited: Inherited | None = None,
        is_private: bool = False,
    ) -> None:
        self.label = label
        self._variables = None if _anonymous.find(label) is variables else variables
        self.travels = travels
        self.is_private = is_private
        self.inherited = inherited
        self.attributes = {
            key: variables[key]
            for key in _FIXED
            if (travels or is_private) and label != "__main__" and key in variables
        }

    @property
    def variables(self) -> dict[str, Any]:
        """The live globals; none if they are gone."""
        if self._variables is None:
            return _anonymous.find(self.label) or {}
        return self._variables

    @property
    def is_anonymous(self) -> bool:
        """Whether it lives by its functions alone: nobody else is to keep it."""
        return self._variables is None

    def sends(self, name: str, value: Any) -> bool:
        """Say whether the peer is to be told of a name that a function uses (`value` may be `ABSENT`)."""
        return self.travels and not (self.inherited and self.inherited.has(name, value))


class Rules:
    """What one side of a pool sends by value.

    Parameters
    ----------
    by_value_main : bool
        Whether the members of ``__main__`` go by value, because the peer's
        ``__main__`` is another module.
    returning : bool
        True in a worker: its functions go home to the caller's own namespaces.
    inherited : Inherited, optional
        What the peer, a fork, has of ``__main__``: only the rest goes by value.
    """

    def __init__(
        self, by_value_main: bool, returning: bool = False, inherited: Inherited | None = None
    ) -> None:
        self.by_value_main = by_value_main
        self.returning = returning
        self.inherited = inherited

    def needs_by_value(self, obj: Any) -> bool:
        """Say whether a function or class cannot be imported by the peer.

        That is so for members of ``__main__`` (with `by_value_main`), lambdas
        and local definitions, objects that their module does not hold under
        their name, and modules that a fresh interpreter cannot import or that
        were given to ``cloudpickle.register_pickle_by_value``.
        """
        name = getattr(obj, "__module__", None)
        path = getattr(obj, "__qualname__", None)
        if not isinstance(name, str) or not isinstance(path, str) or "<" in path:
            return True
        if self.by_value_main and name in MAIN:
            return True
        module = sys.modules.get(name)
        if module is None or self.module_travels(module, name):
            return True
        if find(module, path) is not obj:
            return True
        return name in MAIN and not self._is_inherited(module, path)

    def _is_inherited(self, main: ModuleType, path: str) -> bool:
        inherited, variables = self.inherited, vars(main)
        if inherited is None:
            return True  # the peer has imported the script
        name = path.partition(".")[0]
        return inherited.variables is variables and inherited.has(name, variables.get(name, ABSENT))

    def module_travels(self, module: ModuleType, name: str) -> bool:
        """Say whether the peer cannot import this module."""
        if name in MAIN:
            return self.by_value_main
        return not importable(module, name) or _registered(name)

    def namespace(self, fn: FunctionType) -> Namespace:
        """Return the namespace that holds a function's globals."""
        variables = fn.__globals__
        label = _rebuild.labels.get(id(variables))
        if label is not None and _rebuild.namespaces.get(label) is variables:
            return self._namespace(label, variables, True)
        name = variables.get("__name__")
        module = sys.modules.get(name) if isinstance(name, str) else None
        if module is not None and getattr(module, "__dict__", None) is variables:
            assert isinstance(name, str)
            if name != RUN_PATH:
                return self.module_namespace(module, name)
        label = _anonymous.label_of(fn, lambda: _label(name))
        if self.returning and not _rebuild.is_inherited(label):
            return Namespace(label, variables, travels=False, is_private=True)
        return self._namespace(label, variables, True)

    def module_namespace(self, module: ModuleType, name: str) -> Namespace:
        """Return the namespace of the module of that name."""
        travels = self.module_travels(module, name)
        variables = getattr(module, "__dict__", {})  # it may be any object
        return self._namespace("__main__" if name in MAIN else name, variables, travels)

    def _namespace(self, label: str, variables: dict[str, Any], travels: bool) -> Namespace:
        inherited = self.inherited
        if inherited is not None and inherited.variables is not variables:
            inherited = None
        travels = (travels or inherited is not None) and not self.returning
        return Namespace(label, variables, travels, inherited)


def find(module: ModuleType, path: str) -> Any:
    """Return what a module holds under a dotted name, or `ABSENT`."""
    found: Any = module
    try:
        for part in path.split("."):
            found = getattr(found, part)
    except Exception:  # a module's own `__getattr__` may raise anything
        return ABSENT
    return found


def is_of_module(cls: type) -> bool:
    """Say whether a class lives by a module that holds it under its name."""
    name = cls.__module__
    module = sys.modules.get(name)
    return module is not None and name != RUN_PATH and find(module, cls.__qualname__) is cls


def importable(module: ModuleType, name: str) -> bool:
    """Say whether a fresh interpreter with this ``sys.path`` finds a module."""
    known = _importable.get(name)
    if known is None or _weak.held(known[0]) is not module:
        known = _importable[name] = (_weak.hold(module), _search(module, name))
    return known[1]


def _search(module: ModuleType, name: str) -> bool:
    spec = getattr(module, "__spec__", None)
    if spec is None or sys.modules.get(name) is not module:
        return False
    above = name.rpartition(".")[0]
    parent = sys.modules.get(above)
    if above and (parent is None or not importable(parent, above)):
        return False
    path = getattr(parent, "__path__", None)
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        try:
            found = find(name, path) if find is not None else None
        except Exception:  # a finder that fails says nothing about the worker's
            return True
        if found is not None:
            return spec.origin is None or found.origin in (None, spec.origin)
    # Submodules made by their parent (compiled packages) come with it.
    return parent is not None and spec.origin is None


def _registered(name: str) -> bool:
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is None:
        return False
    registry: set[str] = cloudpickle.list_registry_pickle_by_value()
    return any(name == known or name.startswith(known + ".") for known in registry)


def _label(name: object) -> str:
    return f"{name if isinstance(name, str) else 'exec'}#{_rebuild.unique()}"
