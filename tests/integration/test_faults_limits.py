"""Limits of the system are reached: an error that names the limit, and a pool that goes on."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

import bireme
from tests.integration import tasks
from tests.support.scripts import WITH_TASKS
from tests.support.waiting import GENEROUS, poll

_CGROUPS = Path("/sys/fs/cgroup/memory")
_MIB = 1 << 20


def test_memory_refused_by_rlimit_as(make_pool):
    """An ordinary MemoryError of that task."""
    pool = make_pool(2)
    with pytest.raises(MemoryError):
        pool.apply(tasks.allocate_under_limit, (1 << 34, 1 << 30))
    assert pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]


def test_the_memory_budget_of_a_pool(make_pool):
    """What does not fit is refused at once, argument or result; what fits goes on."""
    pool = make_pool(2, object_memory=8 * _MIB)
    large, small = bytearray(32 * _MIB), bytearray(_MIB)
    with pytest.raises(
        bireme.ResourceLimitError, match=r"memory budget of 8388608 bytes.*object_memory"
    ):
        pool.apply(len, (large,))
    with pytest.raises(bireme.ResourceLimitError, match=r"result has no room.*object_memory"):
        pool.apply(bytearray, (len(large),))
    outcome = pool.map_async(bytearray, [_MIB, 32 * _MIB, _MIB, _MIB], 2)
    with pytest.raises(bireme.ResourceLimitError, match="result has no room"):
        outcome.get(GENEROUS)
    for _ in range(50):  # what was used is used again
        assert pool.apply(bytearray, (small,)) == small
    assert pool.map(tasks.square, range(20)) == [x * x for x in range(20)]


def test_descriptors_refused(run_script, start_method):
    """RLIMIT_NOFILE, at every distance from the limit: a pool, or an error that names it."""
    result = run_script(
        """
        import os, resource, sys
        import bireme
        from tests.integration import tasks

        def count():
            return len(os.listdir("/proc/self/fd")) - 1

        if __name__ == "__main__":
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:  # imports what there is to import
                pool.apply(tasks.square, (1,))
            pool.join()
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            outcomes = []
            for spare in range(0, 40, 3):
                open_now = max(int(fd) for fd in os.listdir("/proc/self/fd")) + 1
                resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + spare, hard))
                fillers = []
                while len(fillers) < 1000:
                    try:
                        fillers.append(os.open("/dev/null", os.O_RDONLY))
                    except OSError:
                        break
                for filler in fillers[:spare]:
                    os.close(filler)
                try:
                    pool = bireme.Pool(2, start_method=sys.argv[1])
                    try:
                        right = pool.apply_async(tasks.square, (3,)).get(30) == 9
                    finally:
                        pool.terminate()
                        pool.join()
                    outcomes.append("works" if right else "wrong")
                except (bireme.ResourceLimitError, OSError) as error:
                    named = "RLIMIT_NOFILE" in str(error) or "RLIMIT_NOFILE" in str(error.__cause__)
                    outcomes.append("named" if named else repr(error))
                finally:
                    for filler in fillers[spare:]:
                        os.close(filler)
                    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            print(*outcomes, sep="\\n")
            with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                assert pool.map(tasks.square, range(9)) == [x * x for x in range(9)]
        """,
        args=[start_method],
        env=WITH_TASKS,
    ).check()
    outcomes = result.stdout.split("\n")[:-1]
    assert outcomes[0] == "named", outcomes
    if start_method == "template":
        assert set(outcomes) <= {"named", "works"}, outcomes


def test_descriptors_run_out_in_a_living_pool(run_script):
    """The pool is there, then the caller's table is full: work that needs none goes on."""
    run_script(
        """
        import os, resource
        import bireme
        from tests.integration import tasks

        with bireme.Pool(2) as pool:
            assert pool.map(tasks.square, range(9)) == [x * x for x in range(9)]
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
            fillers = []
            try:
                while True:
                    fillers.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            assert pool.map(tasks.square, range(100), 1) == [x * x for x in range(100)]
            try:
                value = pool.apply_async(tasks.identity, (bytes(50_000_000),)).get(30)
                assert value == bytes(50_000_000)
            except bireme.ResourceLimitError as error:
                assert "RLIMIT_NOFILE" in str(error)
            try:
                pool.apply_async(tasks.die, ("SIGKILL",)).get(30)
            except bireme.WorkerDiedError:
                pass
            for filler in fillers:
                os.close(filler)
            assert pool.map(tasks.square, range(100), 1) == [x * x for x in range(100)]
        """,
        env=WITH_TASKS,
    ).check()


@pytest.mark.parametrize("limit", [0, 4096, 1_000_000])
def test_file_sizes_refused(run_script, start_method, limit):
    """RLIMIT_FSIZE holds for memory files, too."""
    run_script(
        """
        import resource, sys
        import bireme
        from tests.integration import tasks

        if __name__ == "__main__":
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
            try:
                with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                    assert pool.apply_async(tasks.square, (3,)).get(30) == 9
                    value = pool.apply_async(tasks.identity, (bytes(20_000_000),)).get(30)
                    assert value == bytes(20_000_000)
            except bireme.ResourceLimitError as error:
                assert "RLIMIT_FSIZE" in str(error), error
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                assert pool.apply_async(tasks.square, (3,)).get(30) == 9
        """,
        args=[start_method, str(limit)],
        env=WITH_TASKS,
    ).check()


def test_a_task_that_runs_out_of_descriptors_fails_alone(run_script, start_method):
    """The worker tells of it while the exception's frames still hold the files."""
    run_script(
        """
        import os, resource, sys
        import bireme

        class Own(Exception):
            pass

        def leak(i):
            files = []
            try:
                while i in (1, 3):
                    files.append(open("/dev/null"))
            except OSError as error:
                if i == 3:
                    raise Own(i) from error
                raise
            return i

        if __name__ == "__main__":
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                worker = pool.apply(os.getpid)
                items = pool.imap(leak, range(5), chunksize=5)
                assert next(items) == 0
                try:
                    next(items)
                except OSError as error:
                    assert error.errno == 24
                    assert "in leak" in str(error.__cause__), error.__cause__
                assert next(items) == 2
                try:
                    next(items)
                except Own as error:
                    assert error.args == (3,)
                assert next(items) == 4
                assert pool.apply(os.getpid) == worker
        """,
        args=[start_method],
    ).check()


def test_a_task_that_spoils_the_import_of_modules_fails_alone(run_script, start_method):
    run_script(
        """
        import os, sys
        import bireme

        def spoil():
            sys.path.clear()
            sys.path_importer_cache.clear()
            for name in ("traceback", "linecache", "tokenize"):
                sys.modules.pop(name, None)

        def divide(x):
            return 1 // x

        if __name__ == "__main__":
            with bireme.Pool(1, start_method=sys.argv[1]) as pool:
                worker = pool.apply(os.getpid)
                pool.apply(spoil)
                try:
                    pool.apply(divide, (0,))
                except ZeroDivisionError as error:
                    assert "in divide" in str(error.__cause__), error.__cause__
                assert pool.apply(os.getpid) == worker
        """,
        args=[start_method],
    ).check()


def test_a_pool_that_starved_of_descriptors_lives_again(run_script, start_method):
    """With no worker left and none to be had, calls fail one by one, until the limit is raised."""
    run_script(
        """
        import os, resource, signal, sys
        import bireme
        from tests.integration import tasks

        if __name__ == "__main__":
            with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                pool.map(tasks.square, range(10), 1)
                soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (5, hard))
                for pid in pool.worker_pids():
                    os.kill(pid, signal.SIGKILL)
                for _ in range(3):
                    try:
                        pool.apply(tasks.square, (3,))
                    except bireme.ResourceLimitError as error:
                        assert "RLIMIT_NOFILE" in str(error), error
                    except bireme.WorkerDiedError:
                        pass  # it had begun
                    else:
                        raise AssertionError("by which worker?")
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                assert pool.map(tasks.square, range(50), 1) == [x * x for x in range(50)]
        """,
        args=[start_method],
        env=WITH_TASKS,
    ).check()


def test_a_result_that_cannot_be_told_now_is_told_later(run_script):
    """What makes its exception needs a descriptor: without one nothing is lost."""
    run_script("""
        import resource, sys, time
        import bireme

        pool = bireme.Pool(1)
        pool.apply(abs, (-1,))
        single, several = pool.apply_async(time.sleep, (60,)), pool.map_async(time.sleep, [60, 60])
        pool.terminate()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            for result in (single, several):
                for _ in range(2):
                    try:
                        result.get()
                    except (OSError, bireme.BiremeError):
                        continue
                    raise AssertionError("it never ran")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for result in (single, several):
            try:
                result.get()
            except bireme.CancelledError:
                continue
            raise AssertionError("it never ran")
    """).check()


_ALL_TAKEN = """
    import os, resource, sys, threading, time
    import bireme

    pool = bireme.Pool(1)
    pool.apply(abs, (-1,))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    calls = {
        "death": pool.apply_async(os._exit, (3,)).get,
        "wait": lambda: pool.apply_async(time.sleep, (60,)).get(0.1),
        "imap": lambda: list(pool.imap(abs, [-1])),
        "progress": lambda: pool.map(abs, [-1], progress=True),
    }
    time.sleep(0.3)  # a new worker is there
    taken, real = [], bireme._remote.os.close

    def close(descriptor):  # what becomes free, another thread takes at once
        real(descriptor)
        taken.append(os.open("/dev/null", os.O_RDONLY))

    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    bireme._remote.os.close = close
    try:
        calls[sys.argv[1]]()
    except bireme.ResourceLimitError as error:
        assert "RLIMIT_NOFILE" in str(error), error
    else:
        raise AssertionError("there was a descriptor")
    finally:
        bireme._remote.os.close = real
        for descriptor in taken:
            os.close(descriptor)
    if sys.argv[1] != "death":  # that one is told
        try:
            calls[sys.argv[1]]()
        except bireme.WaitTimeoutError:
            assert sys.argv[1] == "wait"
"""


@pytest.mark.parametrize("call", ["death", "wait", "imap", "progress"])
def test_what_cannot_be_loaded_without_descriptors_names_the_limit(run_script, call):
    """The spare one is lent, but another thread of the program may be faster."""
    run_script(_ALL_TAKEN, args=[call]).check()


def test_file_sizes_refused_in_a_living_pool(run_script):
    """A large transfer is refused by name; small ones, and the pool, go on."""
    run_script(
        """
        import resource
        import bireme
        from tests.integration import tasks

        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        with bireme.Pool(1) as pool:
            assert pool.apply(tasks.square, (3,)) == 9
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
            for _ in range(3):
                try:
                    value = pool.apply_async(tasks.identity, (bytes(80_000_000),)).get(30)
                    assert value == bytes(80_000_000)
                except bireme.ResourceLimitError as error:
                    assert "RLIMIT_FSIZE" in str(error), error
                assert pool.map(tasks.square, range(100), 1) == [x * x for x in range(100)]
        """,
        env=WITH_TASKS,
    ).check()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
@pytest.mark.parametrize("spare", [0, 1, 2, 3, 5, 12])
def test_processes_refused(run_script, start_method, spare):
    """RLIMIT_NPROC does not bind root, so somebody else asks; reading files stays allowed."""
    user = str(
        61_234 + spare + 20 * ["template", "fork", "spawn", "forkserver"].index(start_method)
    )
    result = run_script(
        """
        import os, resource, sys
        import bireme
        from tests.integration import tasks

        if __name__ == "__main__":
            assert os.getuid() != 0
            hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
            threads = len(os.listdir("/proc/self/task"))
            resource.setrlimit(resource.RLIMIT_NPROC, (threads + int(sys.argv[2]), hard))
            try:
                with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                    assert pool.apply_async(tasks.square, (3,)).get(30) == 9
                print("works")
            except (bireme.ResourceLimitError, OSError, RuntimeError) as error:
                told = f"{type(error).__name__}: {error} {error.__cause__}"
                print("named" if "RLIMIT_NPROC" in told else told)
            resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
            with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                assert pool.apply_async(tasks.square, (3,)).get(30) == 9
        """,
        args=[start_method, str(spare)],
        env={**WITH_TASKS, "HOME": "/", "TMPDIR": "/tmp"},
        prefix=[
            "setpriv",
            "--reuid",
            user,
            "--regid",
            user,
            "--clear-groups",
            "--inh-caps=-all,+dac_override",
            "--ambient-caps=-all,+dac_override",
            "--bounding-set=-all,+dac_override",
        ],
    ).check()
    outcome = result.stdout.strip()
    assert outcome in ("works", "named"), outcome
    if spare == 0:
        assert outcome == "named"


@contextmanager
def _memory_limit(limit: int):
    """Give a memory cgroup with a limit in bytes; skips the test where none can be made."""
    group = _CGROUPS / f"bireme-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        yield group
    finally:
        removed = poll(lambda: _remove(group), timeout=10)
        assert removed, (group / "cgroup.procs").read_text()


def _remove(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def _in_group(group: Path) -> list[str]:
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]


def test_out_of_memory_in_a_cgroup(run_script, start_method):
    """The kernel's OOM killer takes the worker, not the caller, and the certificate says so."""
    with _memory_limit(400 * _MIB) as group:
        run_script(
            """
            import sys
            import bireme
            from tests.integration import tasks

            if __name__ == "__main__":
                with bireme.Pool(2, start_method=sys.argv[1]) as pool:
                    assert pool.map(tasks.square, range(9)) == [x * x for x in range(9)]
                    for _ in range(2):
                        try:
                            pool.apply_async(tasks.allocate, (2 << 30,)).get(60)
                        except bireme.WorkerDiedError as error:
                            assert error.oom_killed, error
                            assert error.memory_limit_bytes == 400 << 20, error.memory_limit_bytes
                            assert error.peak_memory_bytes > 100 << 20, error.peak_memory_bytes
                            assert "memory" in str(error).lower()
                        else:
                            raise AssertionError("nothing was raised")
                        assert pool.map(tasks.square, range(99), 1) == [x * x for x in range(99)]
            """,
            args=[start_method],
            env=WITH_TASKS,
            prefix=_in_group(group),
            timeout=90,
        ).check()


def test_transfers_larger_than_the_cgroup_are_refused(run_script):
    """Shared memory past the limit would end in SIGBUS or the OOM killer: an error comes first."""
    with _memory_limit(400 * _MIB) as group:
        run_script(
            """
            import sys
            import bireme
            from tests.integration import tasks

            with bireme.Pool(1) as pool:
                assert pool.apply(tasks.square, (3,)) == 9
                block = bytes(60_000_000)
                results = []
                try:
                    for _ in range(20):  # 1.2 GB of unread results
                        results.append(pool.apply_async(tasks.identity, (block,)))
                    for result in results:
                        assert result.get(60) == block
                except (bireme.BiremeError, MemoryError) as error:
                    print("refused", type(error).__name__, error)
                results.clear()
                assert pool.apply_async(tasks.square, (3,)).get(60) == 9
            """,
            env=WITH_TASKS,
            prefix=_in_group(group),
            timeout=90,
        ).check()


def test_a_cpu_quota_is_honoured(run_script):
    """A cgroup's quota of one core makes one worker the default."""
    group = Path("/sys/fs/cgroup/cpu") / f"bireme-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("100000")
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no CPU cgroup can be made here: {error}")
    try:
        run_script(
            """
            import bireme
            assert bireme.cpu_count() == 1, bireme.cpu_count()
            with bireme.Pool() as pool:
                assert pool.processes == 1
            """,
            prefix=_in_group(group),
        ).check()
    finally:
        assert poll(lambda: _remove(group), timeout=10)


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, who is under the limit")
def test_too_many_descriptors_under_way(run_script):
    """A segment that cannot be sent now is sent when the system takes it."""
    result = run_script(
        """
        import array, errno, os, resource, socket, threading
        import bireme

        if __name__ == "__main__":
            with bireme.Pool(1) as pool:
                pool.apply(abs, (-1,))
                hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
                rights = array.array("i", [0] * 100)
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                for _ in range(20):
                    try:
                        ours.sendmsg([b"x"], ancillary, socket.MSG_DONTWAIT)
                    except OSError as error:
                        assert error.errno == errno.ETOOMANYREFS
                        break
                else:
                    raise AssertionError("no limit")
                results = [pool.apply_async(len, (bytearray(64 << 20),)) for _ in range(2)]
                threading.Timer(0.3, lambda: (ours.close(), theirs.close())).start()
                assert [result.get(30) for result in results] == [64 << 20] * 2
                print("sent", flush=True)
                os._exit(0)  # another user's workers cannot be ended from here, but by the template
        """
    )
    assert result.stdout.split() == ["sent"], result
