"""CPython's tests for `multiprocessing.Pool`: all of them in the default way, a sample in the others."""

from __future__ import annotations

import pytest

from tests.conformance.reasons import CANNOT_APPLY
from tests.conformance.run import list_tests, run_tests, suite_path

pytestmark = pytest.mark.skipif(
    not suite_path().exists(), reason="CPython's tests are not installed with this interpreter"
)

_SAMPLE = (
    "test_map",
    "test_imap",
    "test_apply",
    "test_traceback",
    "test_pool_worker_lifetime",
    "test_terminate",
)


def _tests() -> list[str]:
    return list_tests(suite_path().read_text(encoding="utf-8"))


def test_the_suite_has_what_we_know():
    names = {test.split(".")[1] for test in _tests()}
    assert len(names) >= 30
    assert set(CANNOT_APPLY) <= names, "a reason for a test that is gone"


@pytest.mark.timeout(180)
@pytest.mark.parametrize("method", ["template", "fork", "spawn", "forkserver"])
def test_the_standard_pools_tests_pass(method):
    tests = _tests()
    if method != "template":
        tests = [test for test in tests if test.split(".")[1] in _SAMPLE]
    outcomes = run_tests(method, tests)
    assert {outcome.test for outcome in outcomes} == set(tests)
    bad = [
        f"{outcome.how} {outcome.test}:\n{outcome.message}"
        for outcome in outcomes
        if outcome.is_bad
    ]
    assert not bad, "\n".join(bad)
