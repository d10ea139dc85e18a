"""Where spilled objects lie: files without a name in local directories, or objects behind an fsspec URL.

Local files are made with O_TMPFILE (or unlinked at once), so nothing is left of them however the node ends. Objects are
appended to a file of up to FILE_BYTES; one that is freed leaves a hole, and the file is closed with its last object.
All methods may be called from any thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import importlib
import itertools
import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from actorflow.shm.kernel import punch_hole
from actorflow.shm.spill import Pins

FILE_BYTES = 1 << 30
PAGE_BYTES = 4096
NOWHERE = "none"
CLOSE_TURNS = 3  # each of which something in a folder may be gone before its turn to be removed


class Place(NamedTuple):
    """Where an object lies. `where`: what its disk finds it by; `sum`: of its bytes."""

    disk: Disk
    where: Any
    sum: int

    @property
    def name(self) -> str:
        """The file, for people."""
        return self.disk.name(self.where)


class Disk(Protocol):
    """A place for objects."""

    @property
    def path(self) -> str:
        """What errors call it."""

    def write(self, pins: Pins) -> Place:
        """Writes an object. OSError: it could not be, and has no place here."""

    def read(self, where: Any, pins: Pins) -> int:
        """Reads it back; returns the sum of the bytes. OSError."""

    def name(self, where: Any) -> str:
        """What its file is called, for people."""

    def free(self, where: Any) -> None:
        """Its bytes are not needed any more."""

    def free_bytes(self) -> int:
        """What could be written still, as far as that is known."""

    def close(self) -> None:
        """Ends all of it."""


class Disks:
    """All places, used in turn."""

    def __init__(self, disks: Sequence[Disk]) -> None:
        self._disks = disks
        self._turns = itertools.count()

    def __len__(self) -> int:
        return len(self._disks)

    @property
    def path(self) -> str:
        """All their paths, for people."""
        return ", ".join(disk.path for disk in self._disks)

    def free_bytes(self) -> int:
        """What could be written still to all of them."""
        return sum(disk.free_bytes() for disk in self._disks)

    def write(self, pins: Pins) -> Place:
        """Writes an object to the first place, beginning with the next in turn, that takes it. OSError: none does."""
        turn = next(self._turns)
        problem = OSError(errno.ENOSPC, "there is nowhere to spill to")
        for i in range(len(self._disks)):
            disk = self._disks[(turn + i) % len(self._disks)]
            try:
                return disk.write(pins)
            except OSError as error:
                problem = error
        raise problem

    def close(self) -> None:
        """Ends all of them."""
        for disk in self._disks:
            disk.close()


def open_disks(directories: str, node_id: str) -> Disks:
    """The places that the tunable `spill_directories` names; they are tried when they are first written to."""
    if directories.strip() == NOWHERE:
        return Disks([])
    names = [name.strip() for name in directories.split(",") if name.strip()]
    if not names:
        return Disks([LocalDisk(None)])
    return Disks([RemoteDisk(name, node_id) if "://" in name else LocalDisk(name) for name in names])


class _File:
    """A file of a local disk: its objects, and where the next one goes."""

    __slots__ = ("descriptor", "end", "objects")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.end = 0
        self.objects = 0


class LocalDisk:
    """A directory; None: the system's for temporary files."""

    def __init__(self, path: str | None) -> None:
        self._given = path
        self._lock = threading.Lock()
        self._file: _File | None = None  # the one that is appended to
        self._is_closed = False

    @functools.cached_property
    def path(self) -> str:
        """Absolute."""
        if self._given is not None:
            return os.path.abspath(self._given)
        import tempfile

        return tempfile.gettempdir()

    def write(self, pins: Pins) -> Place:
        """See Disk. A file that may grow no further is followed by another."""
        while True:
            where = self._reserve(pins.bytes)
            file, offset, _ = where
            try:
                return Place(self, where, pins.write(file.descriptor, offset))
            except OSError as error:
                self.free(where)
                if error.errno != errno.EFBIG or offset == 0:
                    raise
                with self._lock:
                    if self._file is file:
                        self._retire()

    def read(self, where: Any, pins: Pins) -> int:
        """See Disk."""
        file, offset, _ = where
        return pins.read(file.descriptor, offset)

    def name(self, where: Any) -> str:
        """See Disk."""
        return f"{self.path} (a file without a name, from byte {where[1]:,} on)"

    def _reserve(self, size_bytes: int) -> tuple[_File, int, int]:
        size_bytes = -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
        with self._lock:
            if self._is_closed:
                raise OSError(errno.EBADF, "the node is ending")
            if self._file is None or self._file.end + size_bytes > FILE_BYTES:
                self._retire()
                self._file = _File(_open_unnamed(self.path))
            file = self._file
            offset = file.end
            file.end += size_bytes
            file.objects += 1
            return file, offset, size_bytes

    def _retire(self) -> None:
        """The file takes no more; it is closed now, or with its last object."""
        file, self._file = self._file, None
        if file is not None and file.objects == 0:
            os.close(file.descriptor)

    def free(self, where: Any) -> None:
        """See Disk."""
        file, offset, size_bytes = where
        with self._lock:
            file.objects -= 1
            if file.objects == 0 and (file is not self._file or self._is_closed):
                os.close(file.descriptor)
            elif file.objects == 0:
                os.ftruncate(file.descriptor, 0)
                file.end = 0
            else:
                punch_hole(file.descriptor, offset, size_bytes)

    def free_bytes(self) -> int:
        """See Disk."""
        with contextlib.suppress(OSError):
            facts = os.statvfs(self.path)
            return facts.f_bavail * facts.f_frsize
        return 0

    def close(self) -> None:
        """See Disk. Files that hold objects still end with the process."""
        with self._lock:
            self._is_closed = True
            self._retire()


def _open_unnamed(path: str) -> int:
    """A file that nobody else can find, read and written past the page cache where the file system can do that."""
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_TMPFILE, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        import tempfile

        descriptor, name = tempfile.mkstemp(prefix="actorflow-", dir=path)
        os.unlink(name)
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_DIRECT)
    return descriptor


class RemoteDisk:
    """A folder behind an fsspec URL. What lies there when the node is killed stays there."""

    def __init__(self, url: str, node_id: str) -> None:
        self.path = url
        self._lock = threading.Lock()
        self._folder = f"{url.rstrip('/')}/actorflow-{node_id}"
        self._count = 0
        self._system: tuple[Any, str] | None = None

    def _opened(self) -> tuple[Any, str]:
        """The file system and the folder in it, made at first use. OSError: fsspec is missing, or cannot get there."""
        with self._lock:
            if self._system is None:
                try:
                    fsspec = importlib.import_module("fsspec")
                    system, folder = fsspec.core.url_to_fs(self._folder)
                    system.makedirs(folder, exist_ok=True)
                except Exception as error:
                    raise OSError(errno.EIO, f"cannot spill to {self.path}: {error}") from error
                self._system = system, folder
            return self._system

    def write(self, pins: Pins) -> Place:
        """See Disk."""
        system, folder = self._opened()
        with self._lock:
            self._count += 1
            name = f"{folder}/{self._count}"
        try:
            with system.open(name, "wb") as file:
                file.write(pins.memory())
        except Exception as error:
            self.free(name)
            raise OSError(errno.EIO, f"cannot spill to {self.path}: {error}") from error
        return Place(self, name, pins.sum())

    def read(self, where: Any, pins: Pins) -> int:
        """See Disk."""
        system, _ = self._opened()
        try:
            with system.open(where, "rb") as file:
                _read_whole(file, pins.memory())
        except Exception as error:
            raise OSError(errno.EIO, str(error) or type(error).__name__) from error
        return pins.sum()

    def name(self, where: Any) -> str:
        """See Disk."""
        return str(where)

    def free(self, where: Any) -> None:
        """See Disk."""
        with contextlib.suppress(Exception):  # what is gone already, or a service that is
            self._opened()[0].rm(where)

    def free_bytes(self) -> int:
        """See Disk: not known."""
        return 0

    def close(self) -> None:
        """See Disk: removes the folder."""
        if self._system is None:
            return
        system, folder = self._system
        for _ in range(CLOSE_TURNS):
            with contextlib.suppress(Exception):  # a thread may free an object there meanwhile
                system.rm(folder, recursive=True)
            with contextlib.suppress(Exception):
                if not system.exists(folder):
                    return


def _read_whole(file: Any, memory: memoryview) -> None:
    """Fills the memory from a file. EOFError: that is shorter."""
    filled = 0
    while filled < len(memory):
        got = file.readinto(memory[filled:])
        if not got:
            raise EOFError("the file is shorter than what was written")
        filled += got
