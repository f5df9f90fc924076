"""Fixtures of the tests of `bireme.serialize`."""

from __future__ import annotations

import contextlib
import functools

import pytest

from tests.support import serialization

with contextlib.suppress(ImportError):
    import numpy  # noqa: F401  (its threads start here, not inside of a test)


@pytest.fixture
def pair():
    """Give a caller and a worker."""
    made = serialization.Pair()
    yield made
    made.close()


@pytest.fixture
def script(monkeypatch):
    """Run a source text as the caller's ``__main__``."""
    return functools.partial(serialization.run_script, monkeypatch)
