"""What this worker prints: under which title, and where to.

Standard output and error are pipes to the node. Python's streams write each piece behind a header with the title of
the call that prints it; for what C code and other processes write, the title of the last call is in shared memory.
"""

from __future__ import annotations

import contextvars
import errno
import io
import os
import sys
from typing import TextIO

from actorflow import _hot
from actorflow.shm.titles import Titles
from actorflow.wire.printed import TITLE_BYTES

# Set in the context of an async task, many of which run at once; elsewhere the worker has one title at a time.
_of_context: contextvars.ContextVar[bytes] = contextvars.ContextVar("title")
_now = b""
_titles: Titles | None = None
_outputs: list[TitledOutput] = []
_streams: list[io.TextIOWrapper] = []
_slot = 0


class TitledOutput(io.FileIO):
    """The lowest layer of a stream, unbuffered. The descriptor stays open when it is closed."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._descriptor = descriptor
        self._inode = 0

    def begin(self) -> None:
        """The descriptor is now this process' pipe."""
        self._inode = os.fstat(self._descriptor).st_ino

    def write(self, data: object, /) -> int:
        """Writes all of it; nowhere, if a call has closed the descriptor: later ones are not to fail for that."""
        try:
            return _hot.print_titled(self._descriptor, self._inode, _of_context.get(_now), data)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return memoryview(data).nbytes  # type: ignore[arg-type] # what BufferedWriter gives has a buffer


class WorkerStream(io.TextIOWrapper):
    """What sys.stdout and sys.stderr are. It outlives the call that closes it: it is that of later calls too."""

    def close(self) -> None:
        """Writes out what is left."""
        self.flush()


def prepare() -> None:
    """Makes the streams of the workers that will be forked from this process."""
    _outputs[:] = TitledOutput(1), TitledOutput(2)
    _streams[:] = (
        _stream(output, old) for output, old in zip(_outputs, (sys.stdout, sys.stderr), strict=True)
    )


def begin(titles: Titles, slot: int) -> None:
    """Gives this process, which was just forked, streams that say who prints."""
    global _titles, _slot
    _titles, _slot = titles, slot
    titles.write(slot, b"")
    for output in _outputs:
        output.begin()
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__ = _streams  # type: ignore[misc] # some keep the others


def _stream(output: TitledOutput, old: TextIO) -> io.TextIOWrapper:
    """Written out at each line's end: what user code prints is read as it comes."""
    raw = io.BufferedWriter(output)
    return WorkerStream(raw, encoding=old.encoding, errors=old.errors, line_buffering=True)


def title_of(name: str) -> bytes:
    """A name as a title; a long one is cut."""
    return name.encode(errors="replace")[:TITLE_BYTES]


def switch(title: bytes) -> None:
    """This process now runs what has that title."""
    global _now
    _now = title
    if _titles is not None:
        _titles.write(_slot, title)


def enter(title: bytes) -> None:
    """The asyncio task that calls this has that title, until it ends."""
    _of_context.set(title)


def send_nowhere() -> None:
    """Nobody wants what this process prints."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.close(nothing)
