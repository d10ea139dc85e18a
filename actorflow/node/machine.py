"""What this machine gives the node: CPUs and memory, within what its cgroup allows."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED_BYTES = 1 << 60  # cgroup v1 writes a huge number for "no limit"


def cpu_count() -> int:
    """CPUs that this process may use, at least 1: its affinity, and its cgroup's quota rounded up."""
    allowed = len(os.sched_getaffinity(0))
    quota = _cpu_quota()
    return max(1, allowed if quota is None else min(allowed, -int(-quota // 1)))


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or its cgroup's limit if that is lower."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [_number(path) for path in _cgroup_files("memory.max", "memory/memory.limit_in_bytes")]
    return min([machine, *(limit for limit in limits if limit is not None and limit < _UNLIMITED_BYTES)])


def _cpu_quota() -> float | None:
    """CPUs' worth of time that the cgroup allows, or None without a limit."""
    quotas = []
    for path in _cgroup_files("cpu.max", ""):
        quota, _, period = _text(path).partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            quotas.append(int(quota) / int(period))
    quota_us = _number(_CGROUP / "cpu/cpu.cfs_quota_us")
    period_us = _number(_CGROUP / "cpu/cpu.cfs_period_us")
    if quota_us and period_us and quota_us > 0:
        quotas.append(quota_us / period_us)
    return min(quotas, default=None)


def _cgroup_files(name: str, version_1: str) -> list[Path]:
    """Where limit `name` may be written: this process' cgroup (version 2), those above it, and version 1's place."""
    paths = [_CGROUP / version_1] if version_1 else []
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        hierarchy, _, group = line.split(":", 2)
        if hierarchy == "0":
            group_path = _CGROUP / group.lstrip("/")
            paths += [place / name for place in (group_path, *group_path.parents) if _CGROUP in (place, *place.parents)]
    return paths


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
