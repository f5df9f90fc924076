"""Tests of CPython's suite that cannot apply to `bireme.Pool`, each with the reason.

The key is a test's name, whatever class it is in. A test listed here is not run; one that is listed
though the suite does not know it any more is reported, so that the table stays true.
"""

from __future__ import annotations

CANNOT_APPLY: dict[str, str] = {
    "test_unpickleable_result": (
        "takes a lambda for a result that cannot be pickled; bireme brings it back, by value. Results "
        "that really cannot travel are tested in tests/integration/test_faults_pickle.py."
    ),
    "test_resource_warning": (
        "sets the private attribute `pool._state` to the constant `multiprocessing.pool.RUN` of a pool "
        "that was terminated before, to make `__del__` believe that it still runs; bireme keeps its "
        "state elsewhere. What the test is about, a running pool that is dropped, is tested in "
        "tests/integration/test_lifecycle.py."
    ),
}

#: Classes of the suite that are left out as a whole.
OUT_OF_SCOPE: dict[str, str] = {
    "WithThreads": "`multiprocessing.pool.ThreadPool`, threads instead of processes: another class",
    "WithManager": "`SyncManager.Pool`, a proxy to a pool in a manager's process: another class",
}
