"""What the run was made on: processor, memory, kernel, versions, load."""

import os
import platform
from pathlib import Path
from typing import Any

from bench.systems import SYSTEMS, installed_version


def describe(systems: list[str]) -> dict[str, Any]:
    """Return the machine and the versions of the systems as plain values."""
    return {
        "processor": _first_value("/proc/cpuinfo", "model name") or platform.machine(),
        "cpus": os.cpu_count(),
        "memory": _first_value("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "versions": {name: installed_version(name) for name in systems if SYSTEMS[name].package is not None},
    }


def _first_value(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
