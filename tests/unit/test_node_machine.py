"""CPUs and memory of the machine, within the limits of a cgroup of either version."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actorflow.node import machine


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return tmp_path


def test_without_limits(cgroup: Path) -> None:
    assert machine.cpu_count() == 8
    assert machine.memory_bytes() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("quota", "cpus"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8)])
def test_version_2_quota_is_rounded_up(cgroup: Path, quota: str, cpus: int) -> None:
    (cgroup / "cpu.max").write_text(quota + "\n")
    assert machine.cpu_count() == cpus


def test_version_1(cgroup: Path) -> None:
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu/cpu.cfs_quota_us").write_text("300000\n")
    (cgroup / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (cgroup / "memory").mkdir()
    (cgroup / "memory/memory.limit_in_bytes").write_text("1048576\n")
    assert machine.cpu_count() == 3
    assert machine.memory_bytes() == 1 << 20


def test_version_1_without_a_quota(cgroup: Path) -> None:
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (cgroup / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert machine.cpu_count() == 8


def test_version_2_memory(cgroup: Path) -> None:
    (cgroup / "memory.max").write_text("2097152\n")
    assert machine.memory_bytes() == 2 << 20
    (cgroup / "memory.max").write_text("max\n")
    assert machine.memory_bytes() > 2 << 20
