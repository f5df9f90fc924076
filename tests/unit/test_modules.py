"""Which loaded modules are watched, and what counts as a change."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

import pytest

from bireme._modules import Sources, attributes


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Give a function that writes a module, by default one from long ago."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names = []

    def write(name="watched_here", text="", age_s=3600.0):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        time = path.stat().st_mtime - age_s
        os.utime(path, (time, time))
        names.append(name)
        importlib.invalidate_caches()
        return path

    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("late", [True, False])
def test_a_loaded_module_is_watched(module, late):
    path = module()
    if late:
        sources = Sources()
    importlib.import_module("watched_here")
    if not late:
        sources = Sources()
    assert not sources.changed()
    assert not sources.changed()
    path.write_text("x = 1")
    assert sources.changed()
    assert not Sources().changed()


def test_one_that_is_gone_counts_as_changed(module):
    path = module()
    importlib.import_module("watched_here")
    sources = Sources()
    path.unlink()
    assert sources.changed()


@pytest.mark.parametrize("again", [importlib.reload, "import"])
def test_a_reload_counts_without_an_edit(module, again):
    """The caller's module is another one now; the edit may have kept time and size."""
    module()
    loaded = importlib.import_module("watched_here")
    sources = Sources()
    if again == "import":
        del sys.modules["watched_here"]
        importlib.import_module("watched_here")
    else:
        again(loaded)
    assert sources.changed()


def test_what_was_written_after_the_start_counts_when_it_is_loaded(module):
    sources = Sources()
    module(age_s=-1.0)
    assert not sources.changed()
    importlib.import_module("watched_here")
    assert sources.changed()


def test_a_lazy_module_stays_unloaded(module):
    module(text="raise ImportError('it was loaded')")
    spec = importlib.util.find_spec("watched_here")
    spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    sys.modules["watched_here"] = lazy
    spec.loader.exec_module(lazy)
    assert attributes(lazy)["__spec__"] is spec
    assert not Sources().changed()


def test_anything_may_stand_among_the_modules(monkeypatch):
    class Slotted:
        __slots__ = ()

    monkeypatch.setitem(sys.modules, "watched_here", None)
    monkeypatch.setitem(sys.modules, "watched_too", Slotted())
    assert not Sources().changed()


def test_installed_packages_and_the_library_are_not_watched():
    names = Sources()._seen
    assert "pytest" not in names
    assert "json" not in names
    assert "bireme" not in names
