"""What tasks print reaches the caller: whole lines, all of them, before the result."""

from __future__ import annotations

import threading

import pytest

from tests.integration import tasks
from tests.support.scripts import WITH_TASKS
from tests.support.waiting import poll

ALL = ("template", "fork", "spawn", "forkserver")

_MANY_LINES = """
    import ctypes, os, subprocess, sys
    import bireme

    def line(task, i, how):
        return f"<{task}:{i}:{how}:" + "x" * (task * 37 % 400) + ">"

    def work(task):
        libc = ctypes.CDLL(None)
        for i in range(20):
            how = ["print", "parts", "c", "write"][i % 4]
            text = line(task, i, how)
            if how == "print":
                print(text)
            elif how == "parts":
                for at in range(0, len(text), 7):
                    sys.stdout.write(text[at:at + 7])
                    sys.stdout.flush()
                sys.stdout.write("\\n")
            elif how == "c":
                sys.stdout.flush()
                libc.puts(text.encode())
                libc.fflush(None)
            else:
                sys.stdout.flush()
                half = len(text) // 2
                os.write(1, text[:half].encode())
                os.write(1, text[half:].encode() + b"\\n")
        if task % 20 == 0:
            sys.stdout.flush()
            subprocess.run(["echo", line(task, 20, "child")], check=True)
        print(line(task, 0, "err"), file=sys.stderr)
        return task

    if __name__ == "__main__":
        with bireme.Pool(3, start_method=sys.argv[1]) as pool:
            assert pool.map(work, range(60), chunksize=1) == list(range(60))
        pool.join()
"""


@pytest.mark.parametrize("method", ALL)
def test_lines_arrive_whole_and_none_is_lost(run_script, method):
    """Python prints in pieces, C code and child processes write: no line is ever torn."""
    result = run_script(_MANY_LINES, args=[method]).check()

    def line(task: int, i: int, how: str) -> str:
        return f"<{task}:{i}:{how}:" + "x" * (task * 37 % 400) + ">"

    hows = ["print", "parts", "c", "write"]
    expected = [line(task, i, hows[i % 4]) for task in range(60) for i in range(20)]
    expected += [line(task, 20, "child") for task in range(0, 60, 20)]
    assert sorted(result.stdout.splitlines()) == sorted(expected)
    assert sorted(result.stderr.splitlines()) == sorted(line(t, 0, "err") for t in range(60))
    per_task = [text for text in result.stdout.splitlines() if text.startswith("<7:")]
    assert [int(text.split(":")[1]) for text in per_task] == list(range(20)), "a task's own order"


def test_a_print_comes_before_its_result(shared_pool, capsys):
    """Through the caller's `sys.stdout` of the moment, as notebooks and pytest replace it."""
    for i in range(30):
        shared_pool.apply(tasks.say, (f"hello {i}",))
        assert capsys.readouterr().out == f"hello {i}\n"
    shared_pool.apply(tasks.say, ("to the error stream", "stderr"))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "to the error stream\n")


def test_c_code_and_child_processes_are_heard(shared_pool, capsys):
    shared_pool.apply(tasks.say_in_c, ("from c",))
    assert capsys.readouterr().out == "from c\n"
    shared_pool.apply(tasks.say_in_child, ("from a child",))
    assert capsys.readouterr().out == "from a child\n"


def test_the_last_line_needs_no_end(shared_pool, capsys):
    shared_pool.apply(tasks.say_without_end, ("no newline",))
    assert capsys.readouterr().out.rstrip("\n") == "no newline"
    shared_pool.apply(tasks.say, ("next",))
    assert capsys.readouterr().out == "next\n", "the next task starts a line of its own"


def test_output_of_a_map_is_there_when_it_returns(shared_pool, capsys):
    shared_pool.map(tasks.say, [f"line {i}" for i in range(200)], 3)
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(f"line {i}" for i in range(200))


def test_a_failing_task_is_heard_first(shared_pool, capsys):
    with pytest.raises(ValueError, match="after printing"):
        shared_pool.apply(tasks.say_and_fail, ("words",))
    assert capsys.readouterr().out == "words\n"


def test_lines_arrive_while_the_task_still_runs(shared_pool, capsys, tmp_path):
    gate = tmp_path / "gate"
    result = shared_pool.apply_async(tasks.say_and_wait, ("on my way", str(gate)))
    heard: list[str] = []

    def listen() -> bool:
        heard.append(capsys.readouterr().out)
        return "on my way\n" in "".join(heard)

    arrived = poll(listen, timeout=10)
    gate.touch()
    result.get(30)
    assert arrived


def test_bytes_that_are_no_text_do_no_harm(shared_pool, capsys):
    shared_pool.apply(tasks.write_bytes, (b"\xff\xfe\n",))
    assert capsys.readouterr().out.endswith("\n")
    assert shared_pool.apply(tasks.square, (3,)) == 9


def test_a_very_long_line(shared_pool, capsys):
    shared_pool.apply(tasks.say, ("y" * 3_000_000,))
    assert capsys.readouterr().out.replace("\n", "") == "y" * 3_000_000


def test_a_flood_blocks_nobody(make_pool, capsys):
    """20 MB of lines while the caller does not look; bounded memory, nothing lost."""
    pool = make_pool(2)
    result = pool.map_async(tasks.say_many, [50_000, 50_000], chunksize=1)
    result.get(60)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 100_000
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("kind", ["print", "log"])
def test_a_flood_that_nobody_takes_waits_in_the_workers(run_script, kind):
    """The caller's memory stays bounded, other work goes on, and everything arrives in the end."""
    run_script(
        """
        import logging, os, sys, threading, time
        import bireme

        LINE = "x" * 999
        COUNT = 150_000  # 150 MB

        def flood(kind):
            log = logging.getLogger("flood")
            for _ in range(COUNT):
                if kind == "print":
                    print(LINE)
                else:
                    log.warning(LINE)

        def memory():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

        class Slow(logging.Handler):
            # Takes nothing until the gate is open.

            def __init__(self):
                super().__init__()
                self.gate, self.taken = threading.Event(), 0

            def emit(self, record):
                self.write(record.getMessage() + "\\n")

            def write(self, text):
                self.gate.wait()
                self.taken += len(text)

            def flush(self):
                pass

        slow = Slow()
        logging.getLogger().handlers = [slow]
        with bireme.Pool(1) as pool:
            pool.apply(int)
            before = memory()
            sys.stdout, kept = slow, sys.stdout
            result = pool.apply_async(flood, (sys.argv[1],))
            time.sleep(2)
            grown = memory() - before
            slow.gate.set()
            result.get(60)
            sys.stdout = kept
            assert slow.taken == 1000 * COUNT, slow.taken
        print(grown >> 20, "MB")
        assert grown < 100 << 20, grown
        """,
        args=[kind],
    ).check()


def test_a_closed_output_of_the_caller_does_no_harm(run_script, start_method):
    run_script(
        """
        import io, sys
        import bireme
        from tests.integration import tasks

        if __name__ == "__main__":
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                out, sys.stdout = sys.stdout, io.StringIO()
                sys.stdout.close()
                assert pool.apply(tasks.say, ("to nobody",)) is None
                sys.stdout = None
                assert pool.apply(tasks.say, ("to nobody",)) is None
                sys.stdout = out
                pool.apply(tasks.say, ("back",))
        """,
        args=[start_method],
        env=WITH_TASKS,
    ).check()


def test_forwarding_can_be_left_out(run_script):
    """The descriptors are the caller's then, and Python's own stream is not involved."""
    result = run_script("""
        import io, os, sys
        import bireme

        def work(x):
            os.write(1, b"straight to the descriptor\\n")

        with bireme.Pool(1, forward_output=False) as pool:
            sys.stdout, kept = io.StringIO(), sys.stdout
            pool.apply(work, (1,))
            sys.stdout, caught = kept, sys.stdout.getvalue()
        assert caught == ""
    """).check()
    assert result.stdout == "straight to the descriptor\n"


def test_output_from_another_thread_of_the_caller(shared_pool, capsys):
    thread = threading.Thread(target=shared_pool.apply, args=(tasks.say, ("in a thread",)))
    thread.start()
    thread.join(30)
    assert capsys.readouterr().out == "in a thread\n"


def test_a_task_can_replace_its_own_streams(shared_pool):
    assert shared_pool.apply(tasks.capture_own_output, ("inner",)) == "inner\n"


def test_standard_input_is_empty_or_the_callers(shared_pool):
    """Reading it never blocks the pool."""
    assert isinstance(shared_pool.apply_async(tasks.read_input).get(30), str)


_TROUBLE = """
    import logging, sys, threading
    import bireme

    class Stream:
        # Raises `error` for a line of "bad"; has no `flush`, as a plain writer may.

        def __init__(self):
            self.lines, self.error = [], None

        def write(self, text):
            if "bad" in text and self.error is not None:
                error, self.error = self.error, None
                raise error
            self.lines.extend(text.splitlines())

    class Handler(logging.Handler):
        def emit(self, record):
            stream.write(record.getMessage())

    def say(how, *words):
        for word in words:
            if how == "print":
                print(word)
            else:
                logging.warning(word)
        return len(words)

    if __name__ == "__main__":
        stream, reported = Stream(), []
        logging.getLogger().handlers = [Handler()]
        sys.stdout, kept = stream, sys.stdout
        sys.unraisablehook = lambda told: reported.append(told.exc_type)
        with bireme.Pool(1) as pool:
            for how in ("print", "log"):
                assert pool.apply(say, (how, "one")) == 1
                for error in (TypeError, RuntimeError, SystemExit, GeneratorExit):
                    stream.error = error("of the stream")
                    assert pool.apply(say, (how, "bad")) == 1
                    assert pool.apply(say, (how, "two", "three")) == 2
                    assert stream.lines == ["one", "two", "three"], stream.lines
                    del stream.lines[1:]
                    assert reported.pop() is error and not reported, reported

                stream.error = KeyboardInterrupt()  # as if it came amid a write
                several = ("bad", "two", "three") if how == "log" else ("bad",)
                result = pool.apply_async(say, (how, *several))
                try:
                    result.get()
                except KeyboardInterrupt as error:
                    reported.append(type(error))
                assert result.get() == len(several)
                assert stream.lines == ["one", *several[1:]], stream.lines
                # The dispatcher, if it was faster than this thread, can only report it.
                assert reported.pop() is KeyboardInterrupt and not reported, reported
                stream.lines.clear()
        sys.stdout = kept
"""


def test_trouble_with_a_stream_of_the_caller_concerns_no_result(run_script):
    """It is reported as what cannot be raised, and later output is not lost."""
    run_script(_TROUBLE).check()


_WAITING_STREAM = """
    import logging, sys, threading, time
    import bireme

    def say(how, word):
        if how == "print":
            print(word)
        else:
            logging.warning(word)
        return word

    class Stream:
        # Waits for other results when it is given "wait".

        def __init__(self):
            self.lines, self.depth = [], 0

        def write(self, text):
            assert not self.depth, "one deliverer at a time"
            self.depth += 1
            if "wait" in text:
                waits[sys.argv[2]]()
            self.depth -= 1
            self.lines.extend(text.splitlines())

        def flush(self):
            pass

    class Handler(logging.Handler):
        def createLock(self):
            self.lock = None

        def emit(self, record):
            stream.write(record.getMessage() + "\\n")

    def ask():
        assert pool.apply(abs, (-1,)) == 1
        assert pool.map(abs, range(100)) == list(range(100))
        assert pool.apply(say, (sys.argv[1], "inner")) == "inner"

    def wait_for_thread():
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    def wait_for_callback_of_another_pool():
        called = threading.Event()
        with bireme.Pool(1) as other:
            other.apply_async(abs, (1,), callback=lambda _: called.set())
            called.wait()

    def hold_lock():
        with lock:
            held.set()
            ask()

    def wait_for_lock():
        threading.Thread(target=hold_lock).start()
        held.wait()
        with lock:
            pass

    waits = {"thread": wait_for_thread, "itself": ask, "lock": wait_for_lock,
             "callback": wait_for_callback_of_another_pool}
    if __name__ == "__main__":
        how, lock, held = sys.argv[1], threading.Lock(), threading.Event()
        stream = Stream()
        logging.getLogger().handlers = [Handler()]
        sys.stdout, kept = stream, sys.stdout
        with bireme.Pool(2) as pool:
            assert pool.apply(say, (how, "first")) == "first"
            assert pool.apply(say, (how, "wait")) == "wait"
            while "wait" not in stream.lines:  # the result may come before it
                time.sleep(0.01)
            for word in map(str, range(20)):
                assert pool.apply(say, (how, word)) == word
                assert stream.lines[-1] == word
        inner = ["inner"] if sys.argv[2] != "callback" else []
        sys.stdout = kept
        assert stream.lines == ["first", "wait", *inner, *map(str, range(20))], stream.lines
"""


@pytest.mark.parametrize("wait", ["thread", "itself", "lock", "callback"])
@pytest.mark.parametrize("how", ["print", "log"])
def test_a_stream_may_wait_for_results(run_script, how, wait):
    """Whoever waits for a result waits a moment only for what another thread delivers."""
    run_script(_WAITING_STREAM, args=[how, wait]).check()
