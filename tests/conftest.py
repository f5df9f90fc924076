"""Fixtures and checks for every test: start methods, pools, leaks.

A test that hangs is failed by pytest-timeout. One that cannot even be failed ends the run after
`STUCK_AFTER` seconds; `make test` then shows its name and the stacks of all threads, from `STUCK`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # `tests.integration.tasks` must be importable, in workers too

from tests.support import leaks, scripts  # noqa: E402
from tests.support.waiting import poll  # noqa: E402

with contextlib.suppress(ImportError):
    import numpy  # noqa: F401  (its threads belong to the picture before every test)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import bireme

STUCK = ROOT / "build" / "stuck-test"
STUCK_AFTER = 240.0  # more than any test's own timeout
START_METHODS = ("template", "fork", "spawn", "forkserver")


_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    item.stash[_failed] = item.stash.get(_failed, False) or report.failed
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    STUCK.parent.mkdir(exist_ok=True)
    with STUCK.open("w") as stacks:
        print(f"the run ended in {item.nodeid}", file=stacks, flush=True)
        faulthandler.dump_traceback_later(STUCK_AFTER, exit=True, file=stacks)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()
            STUCK.unlink(missing_ok=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-start-method",
        action="store_true",
        help="also where a module names fewer in its START_METHODS",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Take a module's own `START_METHODS`: what comes after a worker's birth is the same for all."""
    if "start_method" in metafunc.fixturenames:
        every = metafunc.config.getoption("--every-start-method")
        methods = (
            START_METHODS if every else getattr(metafunc.module, "START_METHODS", START_METHODS)
        )
        metafunc.parametrize("start_method", methods, scope="module", indirect=True)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "may_leak(reason): the test leaves something behind on purpose"
    )
    faulthandler.enable(sys.__stderr__)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's background job is deaf to Ctrl-C, and would hand that down to the scripts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # so does nohup


@pytest.fixture(scope="module")
def start_method(request: pytest.FixtureRequest) -> str:
    """Run the test once with every start method (see `pytest_generate_tests`)."""
    method: str = request.param
    _warm_up(method)
    return method


_warm: set[str] = set()


def _warm_up(method: str) -> None:
    """Start what lives as long as the process (a template, a fork server), once, before any count.

    Whatever stays after this pool is standing machinery; what a later test adds to it is a leak.
    """
    if method in _warm:
        return
    _warm.add(method)
    import bireme

    with bireme.Pool(1, start_method=method) as pool:
        assert pool.apply_async(abs, (-1,), callback=lambda _: None).get(60) == 1
    pool.join()


@pytest.fixture(scope="session")
def warm_template() -> None:
    """Let the template be there before the leaks are counted, for tests without `start_method`."""
    _warm_up("template")


@pytest.fixture
def make_pool(start_method: str) -> Iterator[Callable[..., bireme.Pool]]:
    """Give a function that makes pools of the start method; they are terminated after the test."""
    import bireme

    pools: list[bireme.Pool] = []

    def make(processes: int = 2, **options: Any) -> bireme.Pool:
        options.setdefault("start_method", start_method)
        pools.append(bireme.Pool(processes, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.terminate()
    for pool in pools:
        pool.join()
    pools.clear()


@pytest.fixture
def pool(make_pool: Callable[..., bireme.Pool]) -> bireme.Pool:
    """Give a fresh pool of two workers of the start method."""
    return make_pool(2)


@pytest.fixture(scope="module")
def _no_module_leaks(request: pytest.FixtureRequest, start_method: str) -> Iterator[None]:
    """See that the module's pool leaves nothing, once pytest has let go of it."""
    before, failures = leaks.take_snapshot(), request.session.testsfailed
    yield
    left = leaks.wait_for_no_growth(before) if request.session.testsfailed == failures else []
    assert not left, f"the module's pool left something: {left}"


@pytest.fixture(scope="module")
def shared_pool(start_method: str, _no_module_leaks: None) -> Iterator[bireme.Pool]:
    """Give a pool of two workers for a module's tests that leave it as they found it."""
    import bireme

    with bireme.Pool(2, start_method=start_method) as pool:
        assert pool.map(abs, [-1] * 4) == [1] * 4
        assert poll(lambda: len(pool.worker_pids()) == 2)  # else a birth would look like a leak
        yield pool
    pool.join()


@pytest.fixture
def run_script() -> Callable[..., scripts.Result]:
    """Give `tests.support.scripts.run_script`."""
    return scripts.run_script


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaves a process, thread, descriptor or shared mapping behind.

    Set up before every other fixture of the test and torn down after them; what wider fixtures
    hold is part of the picture before.
    """
    before = leaks.take_snapshot()
    yield
    if request.node.get_closest_marker("may_leak") or request.node.stash.get(_failed, False):
        return  # a failure's traceback keeps the test's pools alive: one report is enough
    for name in ("pool", "shared_pool"):
        request.node.funcargs.pop(name, None)  # else pytest itself would keep it
    left = leaks.wait_for_no_growth(before, pool_lives="shared_pool" in request.fixturenames)
    if left:
        pytest.fail("the test leaked: " + "; ".join(left), pytrace=False)
