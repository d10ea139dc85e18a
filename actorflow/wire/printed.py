"""What a worker prints, as a stream of bytes <-> lines under titles; no I/O.

Python code writes each piece behind a header that says which call prints it: MARK, the number of bytes, the title's
length, the title (`ext/hot_print.c` writes it). C code and other processes write plain bytes into the same stream;
these go under the title that the worker had last.

Guarantees: how the stream is cut into pieces makes no difference; nothing is lost but the earlier states of
a progress bar (what a carriage return overwrites); a line that does not end is cut, so no more than
`LINE_BYTES` for each of `OPEN_LINES` titles is held.
"""

from __future__ import annotations

import struct

MARK = b"\x00\x16\x00"
HEADER = struct.Struct("=3sHB")
TITLE_BYTES = 63  # of a function's name, the rest is left out
LINE_BYTES = 16_384  # a longer line is cut
OPEN_LINES = 64  # unfinished lines under different titles

Text = tuple[bytes, bytes]  # a title, and lines that are complete


def framed(title: bytes, data: bytes) -> bytes:
    """A piece as Python code writes it."""
    return HEADER.pack(MARK, len(data), len(title)) + title + data


class Lines:
    """One stream: bytes in, lines out."""

    def __init__(self) -> None:
        self._unread = b""  # the beginning of a header
        self._left = 0  # bytes of the piece that are still to come
        self._title = b""  # of that piece
        self._open: dict[bytes, bytes] = {}  # by title, what has no line's end yet
        self._found: list[list[bytes]] = []

    def feed(self, data: bytes, title: bytes) -> list[Text]:
        """Takes what arrived; `title`: for what bears none. Returns the lines that are complete with it."""
        data = self._unread + data
        self._unread = b""
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                self._left -= len(piece)
                at += len(piece)
                self._add(self._title, piece)
            elif data.startswith(MARK, at):
                end = self._read_header(data, at)
                if end is None:
                    self._unread = data[at:]
                    break
                at = end
            else:
                at = self._read_plain(data, at, title)
        return self._take()

    def finish(self, title: bytes) -> list[Text]:
        """The stream may have ended: returns what it had begun, too."""
        self._add(title, self._unread)
        self._unread = b""
        self._cut_all()
        return self._take()

    def _read_header(self, data: bytes, at: int) -> int | None:
        """Where the header's piece begins; None while the header is not complete."""
        start = at + HEADER.size
        if len(data) < start:
            return None
        size: int
        title_size: int
        _, size, title_size = HEADER.unpack_from(data, at)
        if len(data) < start + title_size:
            return None
        self._left, self._title = size, data[start : start + title_size]
        return start + title_size

    def _read_plain(self, data: bytes, at: int, title: bytes) -> int:
        """Takes plain bytes up to the next header, or what may be the beginning of one."""
        end = data.find(MARK, at)
        if end < 0:
            end = len(data) - next((size for size in (2, 1) if data.endswith(MARK[:size])), 0)
            self._unread = data[max(at, end) :]
            self._add(title, data[at:end])
            return len(data)
        self._add(title, data[at:end])
        return end

    def _add(self, title: bytes, piece: bytes) -> None:
        if not piece:
            return
        piece = self._open.pop(title, b"") + piece
        end = piece.rfind(b"\n") + 1
        if end:
            self._emit(title, piece[:end])
        rest = piece[end:]
        rest = rest[rest.rfind(b"\r", 0, len(rest) - 1) + 1 :]  # a progress bar's earlier states
        if len(rest) >= LINE_BYTES:
            self._emit(title, rest + b"\n")
        elif rest:
            self._open[title] = rest
            if len(self._open) > OPEN_LINES:
                self._cut_all()

    def _cut_all(self) -> None:
        for title, rest in self._open.items():
            self._emit(title, rest + b"\n")
        self._open.clear()

    def _emit(self, title: bytes, text: bytes) -> None:
        if self._found and self._found[-1][0] == title:
            self._found[-1].append(text)
        else:
            self._found.append([title, text])

    def _take(self) -> list[Text]:
        found, self._found = self._found, []
        return [(title, b"".join(texts)) for title, *texts in found]
