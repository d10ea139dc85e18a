"""What the driver shows of its workers' output: prefixes, repeats, and streams that fail."""

from __future__ import annotations

import io
import json
import sys

import pytest

from actorflow.client import output
from actorflow.client.output import formatted, lines_of
from actorflow.client.repeats import KINDS, Line, Repeats


def line(pid: int, text: str = "loading", title: str = "train") -> Line:
    return Line(title, pid, False, text)


def test_a_line_bears_its_title_and_process() -> None:
    assert formatted(line(7), as_json=False) == "(train pid=7) loading\n"
    assert formatted(line(7, title=""), as_json=False) == "(pid=7) loading\n"
    repeated = line(7)._replace(repeats=12, processes=3)
    assert formatted(repeated, as_json=False) == "(train pid=7) loading [said 12 times more by 3 processes]\n"
    facts = json.loads(formatted(repeated, as_json=True))
    assert facts.pop("time_s") > 0
    assert facts == {
        "title": "train",
        "pid": 7,
        "stream": "stdout",
        "line": "loading",
        "repeats": 12,
        "processes": 3,
    }


def test_a_text_is_cut_into_lines() -> None:
    assert lines_of(b"a\n\nb\r\n1%\r2%\r\n\xff\n") == ["a", "", "b", "2%", "\\xff"]


def test_what_other_processes_repeat_is_counted() -> None:
    repeats = Repeats(5.0)
    assert repeats.take(line(1), 0.0) == [line(1)]
    for pid in (2, 3, 2):
        assert repeats.take(line(pid), 1.0) == []
    assert repeats.due_s == 5.0
    assert repeats.expire(4.9) == []
    assert repeats.expire(5.0) == [line(2)._replace(repeats=3, processes=2)]
    assert Repeats(5.0).due_s is None
    assert repeats.take(line(3), 5.1) == [line(3)]


def test_one_process_alone_may_repeat_itself() -> None:
    repeats = Repeats(5.0)
    assert [repeats.take(line(1), 0.0) for _ in range(3)] == [[line(1)]] * 3
    assert repeats.finish() == []


def test_other_words_empty_lines_and_no_window_are_shown() -> None:
    repeats = Repeats(5.0)
    for pid in (1, 2):
        for text in (f"step {pid}", ""):
            assert repeats.take(line(pid, text), 0.0) == [line(pid, text)]
    off = Repeats(0.0)
    assert [off.take(line(pid), 0.0) for pid in (1, 2)] == [[line(1)], [line(2)]]


def test_the_end_shows_what_was_counted_and_memory_is_bounded() -> None:
    repeats = Repeats(5.0)
    repeats.take(line(1), 0.0)
    repeats.take(line(2), 0.0)
    shown = [text for number in range(KINDS) for text in repeats.take(line(1, str(number)), 0.0)]
    assert line(2) in shown
    repeats.take(line(2, "5"), 0.0)
    assert repeats.finish() == [line(2, "5")]


class Broken(io.StringIO):
    def write(self, text: str, /) -> int:
        raise BrokenPipeError("nobody reads")


@pytest.mark.parametrize("stream", [None, Broken(), "closed"])
def test_a_stream_that_fails_is_nobodys_business(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | str | None
) -> None:
    if isinstance(stream, str):
        stream = io.StringIO()
        stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    output._write(False, "text\n")


def test_what_a_stream_cannot_encode_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    output._write(False, "caf\u00e9\n")
    assert raw.getvalue() == b"caf\\xe9\n"
