"""What a worker finds around it: as the caller has it at the worker's birth."""

from __future__ import annotations

import _locale
import os
import sys

from bireme import _filters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Variables by which BLAS and OpenMP libraries are told how many threads to start.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
# The same by what `threadpoolctl` calls the libraries; one without its own listens to the first alone.
_OWN_VARIABLES = {
    "openblas": "OPENBLAS_NUM_THREADS",
    "mkl": "MKL_NUM_THREADS",
    "blis": "BLIS_NUM_THREADS",
}


def interpreter(code: str) -> list[str]:
    """Give the command of a fresh interpreter with this one's flags that runs `code`."""
    # Without -P, modules of the working folder would come before all others, and run in there.
    flags = ["-P"]
    plain = {
        "dont_write_bytecode": "B",
        "ignore_environment": "E",
        "no_user_site": "s",
        "no_site": "S",
    }
    plain |= {"isolated": "I", "optimize": "O", "bytes_warning": "b"}
    for name, letter in plain.items():
        count = int(getattr(sys.flags, name))
        if count:
            flags.append("-" + letter * count)
    flags += [f"-W{option}" for option in sys.warnoptions]
    for name, value in sys._xoptions.items():
        flags += ["-X", name if value is True else f"{name}={value}"]
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # Deaf to the terminal's Ctrl-C from the start: it is the caller's to handle.
    start = "import _signal, sys; _signal.signal(2, 1); "
    start += f"{home!r} in sys.path or sys.path.insert(0, {home!r}); "
    return [sys.executable, *flags, "-c", start + code]


def absolute_path() -> list[str]:
    """Give `sys.path` for another process, whose working folder need not be the same."""
    here = _cwd() or os.sep
    return [os.path.join(here, entry) for entry in sys.path]


def capture(threads: int) -> dict[str, Any]:
    """Describe the caller; `threads` is each worker's share of the cores."""
    import __main__

    environ = dict(os.environ)
    if not any(name in environ for name in THREAD_VARIABLES):
        environ |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    found: dict[str, Any] = {
        "environ": environ,
        "cwd": _cwd(),
        "umask": _umask(),
        "argv": list(sys.argv),
        "path": list(sys.path),
        "recursion_limit": sys.getrecursionlimit(),
        "switch_interval": sys.getswitchinterval(),
        "int_max_str_digits": sys.get_int_max_str_digits(),
        "locale": _locale.setlocale(_locale.LC_ALL),
        "main": {
            name: getattr(__main__, name, None)
            for name in ("__file__", "__package__")
            if hasattr(__main__, name)
        },
    }
    if "warnings" in sys.modules:
        found["warnings"] = _filters.capture()
    if "logging" in sys.modules:
        from bireme._logs import levels

        found["logging"] = levels()
    return found


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _umask() -> int:
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def apply(found: dict[str, Any], main: bool) -> None:
    """Make this worker's surroundings the caller's; `main`: ``__main__``'s attributes too."""
    import __main__

    os.environ.clear()
    os.environ.update(found["environ"])
    if found["cwd"] is not None:
        try:
            os.chdir(found["cwd"])
        except OSError:
            pass  # it was removed since; a task that needs it will say so
    os.umask(found["umask"])
    sys.argv[:] = found["argv"]
    sys.path[:] = found["path"]
    sys.setrecursionlimit(found["recursion_limit"])
    sys.setswitchinterval(found["switch_interval"])
    sys.set_int_max_str_digits(found["int_max_str_digits"])
    if _locale.setlocale(_locale.LC_ALL) != found["locale"]:
        try:
            _locale.setlocale(_locale.LC_ALL, found["locale"])
        except _locale.Error:  # type: ignore[attr-defined]
            pass  # it was removed from the system
    for name, value in found["main"].items() if main else ():
        setattr(__main__, name, value)
    if "warnings" in found:
        _filters.restore(found["warnings"])
    if "threadpoolctl" in sys.modules:  # the template has imported it for what it has preloaded
        _limit_loaded_libraries()


def cap_threads(threads: int) -> None:
    """In a forked worker: tell BLAS libraries that are loaded already, and those to come."""
    if not any(name in os.environ for name in THREAD_VARIABLES):
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        if "threadpoolctl" in sys.modules or "numpy" in sys.modules:
            _limit_loaded_libraries()


def _limit_loaded_libraries() -> None:
    """Tell BLAS libraries what the environment says, which they read when they were loaded."""
    try:
        import threadpoolctl
    except ImportError:
        return
    for library in threadpoolctl.ThreadpoolController().lib_controllers:
        own = _OWN_VARIABLES.get(library.internal_api, THREAD_VARIABLES[0])
        wanted = os.environ.get(own) or os.environ.get(THREAD_VARIABLES[0]) or ""
        if wanted.isdecimal() and int(wanted):
            library.set_num_threads(int(wanted))
