"""An initializer that raises or ends its process is reported, and not tried for ever."""

from __future__ import annotations

import pytest

import bireme
from tests.integration import tasks
from tests.support.processes import descendants
from tests.support.scripts import WITH_TASKS
from tests.support.waiting import GENEROUS


def _fails_with(error, start) -> BaseException:
    """Return the error of a pool whose first use must fail, at birth or at submission."""
    with pytest.raises(error) as caught:
        _use(start)
    return caught.value


def _use(start) -> None:
    pool = start()
    try:
        pool.apply_async(tasks.square, (1,)).get(GENEROUS)
    finally:
        pool.terminate()
        pool.join()


def test_an_initializer_that_raises(start_method, tmp_path):
    error = _fails_with(
        bireme.InitializerError,
        lambda: bireme.Pool(2, tasks.init_raises, ("no model here",), start_method=start_method),
    )
    text = f"{error} {error.__cause__}"
    assert "no model here" in text
    assert "RuntimeError" in text
    assert "init_raises" in text, "the original traceback"


def test_an_initializer_whose_exception_is_large(run_script, start_method):
    """It arrives whole, or as a stand-in whose texts are cut; it is reported once, not tried again."""
    run_script(
        """
        import os, sys
        import bireme

        def init(path, size):
            with open(path, "a") as file:
                file.write("x")
            raise ValueError("a" * size + "end")

        if __name__ == "__main__":
            for size in (30_000, 70_000, 200_000, 20 << 20):
                path = f"started{size}"
                pool = bireme.Pool(1, init, (path, size), start_method=sys.argv[1])
                try:
                    pool.apply(abs, (1,))
                except bireme.InitializerError as error:
                    cause = error.__cause__
                else:
                    raise AssertionError("it failed")
                pool.terminate()
                assert os.path.getsize(path) == 1, os.path.getsize(path)
                if size < 1 << 20:
                    assert type(cause) is ValueError and str(cause) == "a" * size + "end"
                    continue
                assert isinstance(cause, bireme.RemoteError), cause
                assert "ValueError" in str(cause) and "characters cut" in str(cause)
                assert "too large" in str(cause)
        """,
        args=[start_method],
    ).check()


def test_an_initializer_that_exits(start_method):
    error = _fails_with(
        bireme.BiremeError,
        lambda: bireme.Pool(2, tasks.init_exits, (4,), start_method=start_method),
    )
    assert isinstance(error, bireme.InitializerError | bireme.WorkerDiedError)
    assert "4" in str(error)


@pytest.mark.parametrize("how", ["SIGKILL", "segv", "sysexit5"])
def test_an_initializer_that_dies(start_method, how):
    _fails_with(
        bireme.BiremeError, lambda: bireme.Pool(1, tasks.die, (how,), start_method=start_method)
    )


def test_it_is_not_tried_for_ever(run_script, start_method, tmp_path):
    """A handful of tries at most; the standard pool makes thousands in six seconds."""
    result = run_script(
        """
        import sys, time
        import bireme
        from tests.integration import tasks

        if __name__ == "__main__":
            try:
                pool = bireme.Pool(2, tasks.record_and_raise, (sys.argv[2],), start_method=sys.argv[1])
                time.sleep(1.0)
                pool.apply(tasks.square, (1,))
            except bireme.InitializerError:
                pass
            else:
                raise AssertionError("nothing was raised")
        """,
        args=[start_method, str(tmp_path)],
        env=WITH_TASKS,
    ).check()
    assert tasks.runs(tmp_path, "init") <= 4
    assert len(result.stderr.splitlines()) <= 60


def test_everybody_who_waits_is_told(start_method):
    pool = None
    try:
        pool = bireme.Pool(1, tasks.wait_and_raise, (0.5,), start_method=start_method)
        results = [pool.apply_async(tasks.square, (i,)) for i in range(5)]
        mapped = pool.map_async(tasks.square, range(5))
        for result in [*results, mapped]:
            with pytest.raises(bireme.InitializerError):
                result.get(GENEROUS)
        with pytest.raises((bireme.InitializerError, ValueError)):
            pool.apply(tasks.square, (1,))
    except bireme.InitializerError:
        pass  # a pool that waits for its workers' birth has told it already
    finally:
        if pool is not None:
            pool.terminate()
            pool.join()


def test_a_later_failure_is_told_too(make_pool, tmp_path):
    """The first worker was set up well; its successor is not."""
    pool = make_pool(1, initializer=tasks.init_once, initargs=(str(tmp_path),))
    assert pool.apply(tasks.square, (2,)) == 4
    with pytest.raises(bireme.WorkerDiedError):
        pool.apply(tasks.die, ("SIGKILL",))
    with pytest.raises(bireme.InitializerError):
        pool.apply_async(tasks.square, (2,)).get(GENEROUS)
    assert tasks.runs(tmp_path, "init") <= 4


@pytest.mark.usefixtures("warm_template")
def test_an_initializer_that_does_not_pickle():
    import os
    import threading

    before = len(descendants(os.getpid()))
    for args in ((threading.Lock(),), (tasks.LoadsOnlyIn(),)):
        _fails_with(Exception, lambda args=args: bireme.Pool(1, tasks.set_setting, args))
    assert len(descendants(os.getpid())) <= before + 1
