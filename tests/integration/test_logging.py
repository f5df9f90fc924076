"""Log records made in a task reach the caller's handlers."""

from __future__ import annotations

import logging

import pytest

from tests.integration import tasks

START_METHODS = ("template", "fork")  # all four with --every-start-method


@pytest.fixture
def records():
    """Collect what reaches the root logger of the caller."""
    seen: list[logging.LogRecord] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    collector = Collector()
    logging.getLogger().addHandler(collector)
    yield seen
    logging.getLogger().removeHandler(collector)


def test_a_record_arrives_before_the_result(make_pool, records):
    pool = make_pool(1)
    worker = pool.apply(tasks.pid)
    for i in range(20):
        pool.apply(tasks.log, ("warning", "task %d of %s", i, "many"))
        (record,) = records
        records.clear()
        assert record.getMessage() == f"task {i} of many"
        assert (record.name, record.levelno) == ("tests.tasks", logging.WARNING)
        assert record.process == worker
        assert record.funcName == "log"


def test_a_record_tells_task_and_worker(make_pool, records):
    pool = make_pool(1)
    for _ in range(3):
        pool.apply(tasks.log, ("error", "trouble"))
    told = [
        {k: v for k, v in vars(r).items() if "task" in k.lower() or "worker" in k.lower()}
        for r in records
    ]
    task_ids = [tuple(v for k, v in t.items() if k.endswith("task")) for t in told]
    assert len(set(task_ids)) == 3, told
    assert all(any(k.endswith("worker") for k in t) for t in told), told


def test_the_process_name_is_the_workers(run_script, start_method):
    """Whether or not anything has imported `multiprocessing` there."""
    run_script(
        """
        import logging, sys
        import bireme

        names = []

        class Collector(logging.Handler):
            def emit(self, record):
                names.append(record.processName)

        def log(load):
            if load:
                import multiprocessing
            logging.warning("hello")

        if __name__ == "__main__":
            logging.getLogger().addHandler(Collector())
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                pool.map(log, [False, True, False], 1)
            assert names == ["BiremePoolWorker-1"] * 3, names
        """,
        args=[start_method],
    ).check()


def test_levels_are_those_of_the_caller(start_method, make_pool, records):
    logger = logging.getLogger("tests.tasks")
    before = logger.level
    try:
        logger.setLevel(logging.INFO)
        pool = make_pool(1)
        pool.apply(tasks.log, ("debug", "not asked for"))
        pool.apply(tasks.log, ("info", "asked for"))
    finally:
        logger.setLevel(before)
    assert [record.getMessage() for record in records] == ["asked for"]


def test_an_exception_logged_in_a_task_keeps_its_text(make_pool, records):
    make_pool(1).apply(tasks.log_exception)
    (record,) = records
    text = logging.Formatter().format(record)
    assert "it went wrong" in text
    assert "ZeroDivisionError" in text
    assert "in log_exception" in text


def test_what_cannot_be_pickled_is_logged_as_text(make_pool, records):
    make_pool(1).apply(tasks.log_lock)
    (record,) = records
    assert "lock" in record.getMessage()


def test_all_records_of_a_map_arrive(shared_pool, records):
    shared_pool.map(tasks.log_warning, range(500), 7)
    assert sorted(int(record.getMessage()) for record in records) == list(range(500))


def test_nothing_is_doubled_in_a_script(run_script, start_method):
    """Under fork the worker inherits the handlers, too: each line comes once all the same."""
    result = run_script(
        """
        import logging, sys
        import bireme

        log = logging.getLogger("mine")

        def work(x):
            log.info("item %d", x)

        if __name__ == "__main__":
            logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
            with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                pool.map(work, range(20), 1)
        """,
        args=[start_method],
    ).check()
    expected = sorted(f"INFO mine item {i}" for i in range(20))
    assert sorted(result.stderr.splitlines()) == expected


def test_a_logger_of_its_own_way(run_script, start_method):
    """It tells its parents nothing, and filters by itself: in the caller, once."""
    result = run_script(
        """
        import logging, sys
        import bireme

        log = logging.getLogger("mine")

        def work(x):
            log.info("item %d", x)
            log.warning("item %d", x)

        def mark(record):
            record.msg = f"mark {record.msg}"
            return record.levelno < logging.WARNING or "3" not in record.getMessage()

        if __name__ == "__main__":
            logging.basicConfig(level=logging.INFO, format="ROOT %(message)s")
            handler = logging.StreamHandler(sys.stdout)
            handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
            log.addHandler(handler)
            log.addFilter(mark)
            log.propagate = False
            with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                pool.map(work, range(5), 1)
        """,
        args=[start_method],
    ).check()
    expected = [f"INFO mark item {i}" for i in range(5)]
    expected += [f"WARNING mark item {i}" for i in (0, 1, 2, 4)]
    assert sorted(result.stdout.splitlines()) == expected
    assert result.stderr == ""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failing_handler_of_the_caller_does_no_harm(make_pool, monkeypatch):
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the handler failed")

    broken = Broken()
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logging.getLogger("tests.tasks").addHandler(broken)
    try:
        pool = make_pool(1)
        pool.apply(tasks.log, ("error", "unheard"))
        assert pool.apply(tasks.square, (3,)) == 9
    except RuntimeError as error:
        pytest.fail(f"a handler's error reached the task's caller: {error}")
    finally:
        logging.getLogger("tests.tasks").removeHandler(broken)


_LARGE = """
    import logging, sys
    import bireme

    def log(size, message="large"):
        logging.warning(message, extra={"blob": b"x" * size, "short": "kept"})

    def log_text(size, end):
        logging.warning("a" * size + end)

    def log_in_turns(count):
        import threading
        def many():
            for i in range(count):
                logging.warning("%d " % i + "y" * 300_000)
        threads = [threading.Thread(target=many) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    records = []

    class Collector(logging.Handler):
        def emit(self, record):
            records.append(record)

    if __name__ == "__main__":
        logging.getLogger().handlers = [Collector()]
        with bireme.Pool(1, start_method=sys.argv[1]) as pool:
            for size in (40_000, 65_000, 66_000, 400_000, 15 << 20):
                pool.apply(log, (size,))
                (record,) = records
                assert record.blob == b"x" * size and record.short == "kept"
                records.clear()
            pool.apply(log_text, (1_000_000, "end"))
            assert records.pop().getMessage() == "a" * 1_000_000 + "end"

            pool.apply(log_in_turns, (10,))  # several under way at a time
            assert len(records) == 30 and all(len(r.getMessage()) > 300_000 for r in records)
            records.clear()

            pool.apply(log, (20 << 20,))  # beyond what is sane: never lost
            record = records.pop()
            assert record.getMessage() == "large" and record.short == "kept"
            assert "left out" in record.blob and str(20 << 20)[:4] in record.blob, record.blob
            pool.apply(log_text, (20 << 20, "end"))
            message = records.pop().getMessage()
            assert message.startswith("aaa") and message.endswith("aend"), message[-20:]
            assert "characters cut" in message
            assert not records
"""


def test_a_large_record_arrives_whole(run_script, start_method):
    """In several packets; one beyond all measure is cut, and says so."""
    result = run_script(_LARGE, args=[start_method]).check()
    assert "Traceback" not in result.stderr, result.stderr


def test_a_task_that_waits_to_log_can_be_stopped(run_script):
    """The caller's handler takes nothing, so the worker waits; its time limit ends the task, not the worker."""
    run_script(
        """
        import logging, os, threading
        import bireme

        def flood(size):
            while True:
                logging.warning("x" * size)

        class Gate(logging.Handler):
            def emit(self, record):
                gate.wait()

        if __name__ == "__main__":
            gate = threading.Event()
            logging.getLogger().handlers = [Gate()]
            with bireme.Pool(1) as pool:
                worker = pool.apply(os.getpid)
                for size in (1000, 300_000):  # in one packet, or in several
                    gate.clear()
                    result = pool.options(task_timeout=1).apply_async(flood, (size,))
                    threading.Timer(4, gate.set).start()
                    try:
                        result.get()
                    except bireme.TaskTimeoutError:
                        pass
                    else:
                        raise AssertionError("no limit")
                    assert pool.apply(os.getpid) == worker, "the worker was killed"
        """
    ).check()
