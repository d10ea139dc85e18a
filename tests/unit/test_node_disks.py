"""Where spilled objects lie: in turn, one for another that is full, and nothing of it stays."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from actorflow.node import disks
from actorflow.node.disks import Disks, LocalDisk, Place, RemoteDisk, open_disks


class FakePins:
    """Stands for an object in memory: its bytes are written and read with plain calls."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.bytes = len(data)

    def write(self, descriptor: int, offset: int) -> int:
        os.pwrite(descriptor, self.data, offset)
        return self.sum()

    def read(self, descriptor: int, offset: int) -> int:
        self.data[:] = os.pread(descriptor, self.bytes, offset)
        return self.sum()

    def memory(self) -> memoryview:
        return memoryview(self.data)

    def sum(self) -> int:
        return sum(self.data)


class FullDisk:
    """Takes nothing."""

    path = "/full"

    def write(self, pins: Any) -> Place:
        raise OSError(errno.ENOSPC, "full")

    def read(self, where: Any, pins: Any) -> int:
        raise AssertionError

    def name(self, where: Any) -> str:
        raise AssertionError

    def free(self, where: Any) -> None:
        raise AssertionError

    def free_bytes(self) -> int:
        return 7

    def close(self) -> None:
        pass


def pins(data: bytes) -> Any:
    return FakePins(data)


@pytest.fixture
def buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct writes need memory that begins at a page, which Python's has not."""
    monkeypatch.setattr(os, "O_DIRECT", 0)


@pytest.mark.usefixtures("buffered")
def test_objects_come_back_and_leave_no_name(tmp_path: Path) -> None:
    disk = LocalDisk(str(tmp_path))
    places = [disk.write(pins(bytes([i]) * 5000)) for i in range(5)]
    assert list(tmp_path.iterdir()) == []
    for i, place in enumerate(places):
        back = FakePins(b"\0" * 5000)
        assert disk.read(place.where, back) == place.sum  # type: ignore[arg-type]
        assert back.data == bytes([i]) * 5000
    for place in places:
        disk.free(place.where)
    disk.close()


@pytest.mark.usefixtures("buffered")
def test_a_file_ends_with_its_last_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "FILE_BYTES", 3 * 4096)
    before = len(os.listdir("/proc/self/fd"))
    disk = LocalDisk(str(tmp_path))
    places = [disk.write(pins(b"x" * 4096)) for _ in range(9)]
    assert len(os.listdir("/proc/self/fd")) == before + 3
    for place in places:
        disk.free(place.where)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    disk.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("buffered")
def test_what_is_freed_gives_its_blocks_back(tmp_path: Path) -> None:
    disk = LocalDisk(str(tmp_path))
    first, second = (disk.write(pins(b"x" * (1 << 20))) for _ in range(2))
    descriptor = first.where[0].descriptor
    used = os.fstat(descriptor).st_blocks
    disk.free(first.where)
    assert os.fstat(descriptor).st_blocks < used
    disk.free(second.where)
    assert os.fstat(descriptor).st_size == 0
    disk.close()


def test_one_that_is_full_is_passed_over(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    places = Disks([FullDisk(), RemoteDisk(f"file://{tmp_path}", "node")])
    for _ in range(3):
        assert places.write(pins(b"abc")).disk.path == f"file://{tmp_path}"
    places.close()
    assert list(tmp_path.iterdir()) == []


def test_none_that_takes_it_is_an_error_of_the_last() -> None:
    with pytest.raises(OSError, match="full") as caught:
        Disks([FullDisk(), FullDisk()]).write(pins(b"abc"))
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="nowhere"):
        Disks([]).write(pins(b"abc"))
    assert Disks([FullDisk(), FullDisk()]).free_bytes() == 14


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LocalDisk(str(tmp_path / "missing")).write(pins(b"abc"))


def test_behind_a_url() -> None:
    pytest.importorskip("fsspec")
    disk = RemoteDisk("memory://spilled", "node")
    place = disk.write(pins(b"some bytes"))
    back = FakePins(b"\0" * 10)
    assert disk.read(place.where, back) == place.sum  # type: ignore[arg-type]
    assert back.data == b"some bytes"
    disk.free(place.where)
    with pytest.raises(OSError, match="actorflow-node/1"):
        disk.read(place.where, back)  # type: ignore[arg-type]
    disk.close()


def test_what_the_tunable_names() -> None:
    assert [disk.path for disk in open_disks("/a, memory://b ,/c", "node")._disks] == [
        "/a",
        "memory://b",
        "/c",
    ]
    assert len(open_disks("", "node")) == 1
    assert len(open_disks("none", "node")) == 0


def test_a_folder_is_removed_though_something_in_it_went_first(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    disk = RemoteDisk("memory://raced", "node")
    disk.write(FakePins(b"x" * 10))  # type: ignore[arg-type]
    system = fsspec.filesystem("memory")
    remove, refusals = type(system).rm, [FileNotFoundError("a thread was first")]

    def rm(self: Any, *arguments: Any, **options: Any) -> None:
        if refusals:
            raise refusals.pop()
        remove(self, *arguments, **options)

    monkeypatch.setattr(type(system), "rm", rm)
    disk.close()
    assert not system.exists("/raced/actorflow-node")
