"""What workers print as a stream: lines come out whole, under their titles, however the stream is cut."""

from __future__ import annotations

import os
from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorflow import _hot
from actorflow.wire.printed import LINE_BYTES, MARK, OPEN_LINES, Lines, framed

word = st.binary(max_size=12).filter(lambda data: b"\r" not in data and b"\0" not in data)
title = st.sampled_from([b"", b"train", b"Counter"])
PLAIN = b"last"  # the title of what bears none


def read(lines: Lines, pieces: list[bytes]) -> list[tuple[bytes, bytes]]:
    """All that comes out, single lines, those that were cut included."""
    found = [text for piece in pieces for text in lines.feed(piece, PLAIN)] + lines.finish(PLAIN)
    return [(title, line) for title, text in found for line in text.splitlines(keepends=True)]


@given(st.lists(st.tuples(st.one_of(st.none(), title), word)), st.lists(st.integers(0, 400)))
def test_how_the_stream_is_cut_makes_no_difference(
    pieces: list[tuple[bytes | None, bytes]], places: list[int]
) -> None:
    stream = b"".join(data if name is None else framed(name, data) for name, data in pieces)
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    cut = [stream[start:end] for start, end in pairwise(edges)]
    got = read(Lines(), cut)
    for name in {b"", b"train", b"Counter", PLAIN}:
        said = b"".join(data for whose, data in pieces if (PLAIN if whose is None else whose) == name)
        assert b"".join(line for whose, line in got if whose == name).rstrip(b"\n") == said.rstrip(b"\n")


def test_lines_of_one_title_come_together() -> None:
    stream = framed(b"a", b"1\n") + framed(b"a", b"2\n3") + framed(b"b", b"4\n") + framed(b"a", b"\n")
    assert Lines().feed(stream, b"") == [(b"a", b"1\n2\n"), (b"b", b"4\n"), (b"a", b"3\n")]


def test_what_c_code_writes_between_keeps_to_itself() -> None:
    stream = framed(b"a", b"half ") + b"plain\n" + framed(b"a", b"line\n")
    assert Lines().feed(stream, PLAIN) == [(PLAIN, b"plain\n"), (b"a", b"half line\n")]


def test_of_a_progress_bar_only_the_last_state_is_kept() -> None:
    lines = Lines()
    for percent in range(100):
        assert lines.feed(b"\r%d%%" % percent, b"") == []
    assert lines.feed(b"\r\n", b"") == [(b"", b"99%\r\n")]


def test_a_line_without_end_is_cut() -> None:
    lines = Lines()
    found = [text for _ in range(10) for _, text in lines.feed(b"x" * (LINE_BYTES // 4), b"")]
    assert [len(text) for text in found] == [LINE_BYTES + 1] * 2
    assert lines.finish(b"") == [(b"", b"x" * (LINE_BYTES // 2) + b"\n")]


def test_unfinished_lines_are_bounded() -> None:
    lines = Lines()
    found = [
        text for number in range(OPEN_LINES + 1) for text in lines.feed(framed(b"%d" % number, b"x"), b"")
    ]
    assert len(found) == OPEN_LINES + 1


def test_the_end_gives_what_was_begun() -> None:
    lines = Lines()
    assert lines.feed(b"half" + MARK[:2], b"last") == []
    assert lines.finish(b"last") == [(b"last", b"half" + MARK[:2] + b"\n")]


def test_the_c_side_writes_the_same_layout() -> None:
    reader, writer = os.pipe()
    inode = os.fstat(writer).st_ino
    assert _hot.print_titled(writer, inode, b"train", b"text\n") == 5
    assert os.read(reader, 100) == framed(b"train", b"text\n")
    long = b"".join(b"%05d\n" % number for number in range(2_000))
    assert _hot.print_titled(writer, inode, b"train", long) == len(long)
    os.close(writer)
    data = b""
    while piece := os.read(reader, 65_536):
        data += piece
    os.close(reader)
    texts = Lines().feed(data, b"")
    assert [
        (title, b"".join(text for _, text in group)) for title, group in groupby(texts, lambda t: t[0])
    ] == [(b"train", long)]


def test_what_is_put_at_the_descriptor_later_gets_plain_bytes() -> None:
    reader, writer = os.pipe()
    assert _hot.print_titled(writer, os.fstat(writer).st_ino + 1, b"train", b"text\n") == 5
    assert os.read(reader, 100) == b"text\n"
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        _hot.print_titled(writer, 0, b"train", b"text\n")
    os.close(writer)
    with pytest.raises(ValueError, match="255 bytes"):
        _hot.print_titled(writer, 0, b"x" * 256, b"")
