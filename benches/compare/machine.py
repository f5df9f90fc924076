"""What the figures were measured on and with: processor, cores, memory, versions, load."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = ("bireme", "numpy", "cloudpickle", "joblib", "loky", "mpire", "ray", "ipyparallel")


def describe() -> dict[str, str]:
    """Return the facts that a reader needs to judge or repeat the figures."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor(),
        "usable cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{sys.version.split()[0]} ({platform.python_implementation()})",
        "packages": ", ".join(f"{name} {found}" for name in PACKAGES if (found := version(name))),
        "build": build(),
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def processor() -> str:
    """Return the processor's name as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def build() -> str:
    """Return a fingerprint of bireme's own files, so that no table mixes two builds unnoticed."""
    spec = importlib.util.find_spec("bireme")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        if path.suffix in {".py", ".so"}:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def busy() -> bool:
    """Tell whether something else uses the machine: figures taken now would be about that too."""
    return os.getloadavg()[0] > 0.5 * len(os.sched_getaffinity(0))


def version(package: str) -> str:
    """Return the installed version of `package`, empty when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
