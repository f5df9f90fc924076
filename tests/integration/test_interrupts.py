"""Ctrl-C at the terminal, and SIGINT to the caller alone: back soon, quietly, with nobody left."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.support.scripts import WITH_TASKS, Script

#: Seconds in which an interrupted program must have ended; its tasks would take an hour.
SOON = 15.0

_WAITS = {
    "map": "pool.map(tasks.slow_hour, range(8), 1)",
    "progress": "pool.map(tasks.slow_hour, range(8), 1, progress=True)",
    "apply": "pool.apply(tasks.slow_hour, (1,))",
    "get": "pool.apply_async(tasks.slow_hour, (1,)).get()",
    "get_with_timeout": "pool.apply_async(tasks.slow_hour, (1,)).get(3000)",
    "imap": "list(pool.imap(tasks.slow_hour, range(8)))",
    "submit": "[pool.apply_async(tasks.slow_hour, (i,)) for i in range(10**9)]",
    "join": "pool.map_async(tasks.slow_hour, range(8), 1), pool.close(), pool.join()",
    "sleep": "pool.map_async(tasks.slow_hour, range(8), 1), time.sleep(3600)",
    "blocked_in_c": "pool.apply(tasks.block_in_c)",
    "short_tasks": "[pool.map(tasks.square, range(1000), 1) for _ in range(10**9)]",
}

_PROGRAM = """
    import sys, time
    import bireme
    from tests.integration import tasks

    if __name__ == "__main__":
        with bireme.Pool(2, start_method=sys.argv[1]) as pool:
            assert pool.map(tasks.square, range(4)) == [0, 1, 4, 9]
            print("ready", flush=True)
            {wait}
"""


def _interrupt(script: Script, *, terminal: bool) -> None:
    script.wait_for_output("ready")
    time.sleep(0.3)  # well into the wait
    if terminal:
        script.press_control_c()
    else:
        os.kill(script.pid, signal.SIGINT)


def _check_end(script: Script) -> None:
    result = script.wait(timeout=SOON)
    assert result.returncode in (-signal.SIGINT, 130, 1), result.describe()
    assert not result.survivors, result.describe()
    assert result.tracebacks <= 1, result.describe()
    assert "KeyboardInterrupt" in result.stdout + result.stderr


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "caller_alone"])
def test_one_interrupt_ends_the_program(start_method, terminal):
    program = _PROGRAM.format(wait=_WAITS["map"])
    with Script(program, args=[start_method], env=WITH_TASKS, terminal=terminal) as script:
        _interrupt(script, terminal=terminal)
        _check_end(script)


@pytest.mark.parametrize("wait", [wait for wait in _WAITS if wait != "map"])
def test_whatever_the_program_waits_for(wait):
    program = _PROGRAM.format(wait=_WAITS[wait])
    with Script(program, args=["template"], env=WITH_TASKS, terminal=True) as script:
        _interrupt(script, terminal=True)
        _check_end(script)


def test_the_default_pool(start_method):
    program = """
        import time
        import bireme
        from tests.integration import tasks
        print("ready", flush=True)
        bireme.map(tasks.slow_hour, range(8))
    """
    if start_method != "template":
        pytest.skip("the default pool has the default start method")
    with Script(program, env=WITH_TASKS, terminal=True) as script:
        _interrupt(script, terminal=True)
        _check_end(script)


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "caller_alone"])
def test_a_caught_interrupt_leaves_a_usable_pool(start_method, terminal):
    """As in a notebook: the interrupted cell's tasks stop, the next cell runs."""
    program = """
        import sys, time
        import bireme
        from tests.integration import tasks

        if __name__ == "__main__":
            with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                for wait in (
                    lambda: pool.map(tasks.slow_hour, range(8), 1),
                    lambda: list(pool.imap(tasks.slow_hour, range(8))),
                    lambda: pool.apply(tasks.slow_hour, (1,)),
                    lambda: pool.map(tasks.slow_hour, range(20), 5),
                    lambda: list(pool.imap(tasks.slow_hour, range(20), 5)),
                ):
                    assert pool.map(tasks.square, range(4)) == [0, 1, 4, 9]
                    print("ready", flush=True)
                    try:
                        wait()
                    except KeyboardInterrupt:
                        print("caught", flush=True)
                result = pool.apply_async(tasks.square, (3,)).get(30)
                print("result", result, flush=True)
    """
    with Script(program, args=[start_method], env=WITH_TASKS, terminal=terminal) as script:
        for count in range(1, 6):
            _wait_for_count(script, "ready", count)
            time.sleep(0.3)
            if terminal:
                script.press_control_c()
            else:
                os.kill(script.pid, signal.SIGINT)
            _wait_for_count(script, "caught", count)
        result = script.wait(timeout=30)
        assert "result 9" in result.stdout, result.describe()
        assert result.returncode == 0, result.describe()
        assert result.tracebacks == 0, result.describe()
        assert not result.survivors, result.describe()


def _wait_for_count(script: Script, text: str, count: int) -> None:
    from tests.support.waiting import poll

    assert poll(lambda: script.stdout.count(text) >= count), (
        text,
        count,
        script.stdout,
        script.stderr,
    )


def test_a_result_that_somebody_else_waits_for_is_not_interrupted():
    """An interrupt of a wait for a result leaves the submitted task alone."""
    program = """
        import bireme
        from tests.integration import tasks
        with bireme.Pool(1) as pool:
            result = pool.apply_async(tasks.slow, ("kept", 2.0))
            print("ready", flush=True)
            try:
                result.get()
            except KeyboardInterrupt:
                pass
            print("value", result.get(30), flush=True)
    """
    with Script(program, env=WITH_TASKS, terminal=True) as script:
        _interrupt(script, terminal=True)
        result = script.wait(timeout=30)
        assert "value kept" in result.stdout, result.describe()
        assert not result.survivors


def test_presses_in_a_row():
    """An impatient user; the end is the same."""
    program = _PROGRAM.format(wait=_WAITS["map"])
    with Script(program, args=["template"], env=WITH_TASKS, terminal=True) as script:
        _interrupt(script, terminal=True)
        for _ in range(4):
            time.sleep(0.05)
            try:
                script.press_control_c()
            except OSError:
                break  # the terminal has no reader any more
        result = script.wait(timeout=SOON)
        assert not result.survivors, result.describe()
        assert result.returncode != 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_leave_nobody_either(start_method, number):
    program = _PROGRAM.format(wait=_WAITS["map"])
    with Script(program, args=[start_method], env=WITH_TASKS) as script:
        script.wait_for_output("ready")
        os.kill(script.pid, number)
        result = script.wait(timeout=SOON)
        assert result.returncode == -number
        assert not result.survivors, result.describe()


@pytest.mark.parametrize("call", ["apply_async(make)", "map_async(make_one, [1])"])
def test_an_interrupt_while_a_result_is_unpickled(run_script, call):
    """It is the caller's, and the result is still there."""
    run_script(f"""
        import os, signal
        import bireme

        OWNER, interrupts = os.getpid(), [signal.SIGINT]

        class Slow:
            def __setstate__(self, state):
                self.first = state["first"]
                if os.getpid() == OWNER and interrupts:
                    os.kill(OWNER, interrupts.pop())
                    for _ in range(1000):  # where the handler runs
                        pass

            def __init__(self, first):
                self.first = first

        def make():
            return Slow(1)

        def make_one(_):
            return Slow(1)

        with bireme.Pool(1) as pool:
            result = pool.{call}
            try:
                result.get(30)
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("where is the interrupt?")
            value = result.get(30)
            assert (value if isinstance(value, Slow) else value[0]).first == 1
            assert pool.apply(abs, (-1,)) == 1
    """).check()
