"""What this machine gives the node: CPUs and memory, within what its cgroup allows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_UNLIMITED_BYTES = 1 << 60  # cgroup version 1 writes a huge number for "no limit"


def cpu_count() -> int:
    """CPUs that this process may use, at least 1: its affinity, and its cgroup's quota rounded up."""
    cpus: float = len(os.sched_getaffinity(0))
    for path in _own_cgroup("cpu.max"):
        quota, _, period = _text(path).partition(" ")
        cpus = min(cpus, _ratio(quota, period))
    folder = CGROUP / "cpu"
    cpus = min(cpus, _ratio(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")))
    return max(1, int(-(-cpus // 1)))


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or its cgroup's limit if that is lower."""
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in (*_own_cgroup("memory.max"), CGROUP / "memory/memory.limit_in_bytes"):
        text = _text(path)
        if text.isdigit() and int(text) < _UNLIMITED_BYTES:
            limit = min(limit, int(text))
    return limit


def memory_use() -> tuple[int, int]:
    """(used, limit) in bytes, of the machine or of its cgroup, whichever is nearer to its limit.

    Page cache that the kernel can give back at once is not used.
    """
    facts = dict(line.split()[:2] for line in _text(Path("/proc/meminfo")).splitlines() if line)
    total = int(facts.get("MemTotal:", 0)) * 1024
    uses = [(total - int(facts.get("MemAvailable:", 0)) * 1024, total)]
    places = [
        (path.parent, "memory.current", "memory.max", "inactive_file") for path in _own_cgroup("memory.max")
    ]
    places.append(
        (CGROUP / "memory", "memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file")
    )
    for folder, use, most, cache in places:
        used, limit = _text(folder / use), _text(folder / most)
        if used.isdigit() and limit.isdigit() and int(limit) < _UNLIMITED_BYTES:
            stat = dict(line.split()[:2] for line in _text(folder / "memory.stat").splitlines() if line)
            uses.append((int(used) - int(stat.get(cache, 0)), int(limit)))
    return max(uses, key=lambda use: use[0] / use[1] if use[1] else 0.0)


def _ratio(quota: str, period: str) -> float:
    """CPUs' worth of time; infinity without a quota ("max", -1, or no such file)."""
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else float("inf")


def _own_cgroup(name: str) -> Iterator[Path]:
    """Where version 2 may have limit `name`: this process' group and those above it."""
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        hierarchy, _, group = line.split(":", 2)
        if hierarchy == "0":
            folder = CGROUP / group.lstrip("/")
            while folder != CGROUP and folder != folder.parent:
                yield folder / name
                folder = folder.parent
    yield CGROUP / name


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
