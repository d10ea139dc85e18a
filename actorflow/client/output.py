"""Shows what workers print in their driver: a thread that reads the connection and writes to sys.stdout and stderr.

Each line comes as `(title pid=123) line`, or as a JSON object (`output_json`). Guarantees: lines of one stream of a
process keep their order; a stream that is closed, or whose reader is gone, harms nothing; no fork of the driver
happens in the middle of a line. Not guaranteed: that a line which the driver writes in pieces (`print(a, b)` is four)
stays whole; a stream does not tell whether its last line has ended, and sys.stdout is the user's, not to be wrapped.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from actorflow import config
from actorflow.client.repeats import Line, Repeats
from actorflow.wire import messages

FORK_WAIT_S = 1.0  # for a terminal that takes nothing, a fork does not wait longer

Receive = Callable[[], "list[messages.Message] | None"]
_writing = threading.Lock()


class OutputReader:
    """The thread. `receive()`: what has come at `descriptor`, without waiting; None at the end of it."""

    def __init__(self, descriptor: int, receive: Receive) -> None:
        self._descriptor = descriptor
        self._receive = receive
        self._repeats = Repeats(config.current().output_repeat_s)
        self._thread = threading.Thread(target=self._run, name="actorflow-output", daemon=True)
        self._thread.start()

    def wait_end(self, limit_s: float) -> None:
        """Returns when all is shown, which ends with the connection; waits `limit_s` at most."""
        self._thread.join(limit_s)

    def print(self, found: Iterable[messages.Message]) -> None:
        """Shows what has come, in any thread."""
        with _writing:
            for message in found:
                if isinstance(message, messages.Output):
                    self._show(message)
                elif isinstance(message, messages.OutputLost):
                    _write(
                        True,
                        _dropped(message.lines),
                    )

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        while True:
            poll.poll(self._wait_ms())
            found = self._receive()
            if found is None:
                break
            self.print(found)
            with _writing:
                _write_lines(self._repeats.expire(time.monotonic()))
        with _writing:
            _write_lines(self._repeats.finish())

    def _wait_ms(self) -> float | None:
        due_s = self._repeats.due_s
        return None if due_s is None else max(0.0, due_s - time.monotonic()) * 1000 + 1

    def _show(self, message: messages.Output) -> None:
        now_s = time.monotonic()
        lines: list[Line] = []
        for text in lines_of(message.text):
            line = Line(message.title, message.pid, message.is_error, text)
            lines += self._repeats.take(line, now_s)
        _write_lines(lines)


def _dropped(lines: int) -> str:
    return f"(actorflow) {lines:,} lines of workers were dropped: they came faster than they could be shown\n"


def lines_of(text: bytes) -> list[str]:
    """The lines of a text; of a progress bar its last state, and what is not UTF-8 as escapes."""
    lines = text.decode(errors="backslashreplace").removesuffix("\n").split("\n")
    return [line.rstrip("\r").rpartition("\r")[2] for line in lines]


def formatted(line: Line, as_json: bool) -> str:
    """A line as it is shown, with its end."""
    if as_json:
        return json.dumps(_facts(line)) + "\n"
    who = f"{line.title} pid={line.pid}" if line.title else f"pid={line.pid}"
    if line.repeats == 1:
        return f"({who}) {line.text}\n"
    others = f" by {line.processes} processes" if line.processes > 1 else ""
    return f"({who}) {line.text} [said {line.repeats} times more{others}]\n"


def _facts(line: Line) -> dict[str, Any]:
    return {
        "time_s": round(time.time(), 6),
        "title": line.title,
        "pid": line.pid,
        "stream": "stderr" if line.is_error else "stdout",
        "line": line.text,
        "repeats": line.repeats,
        "processes": line.processes,
    }


def _write_lines(lines: list[Line]) -> None:
    as_json = config.current().output_json
    for is_error in (False, True):
        text = "".join(formatted(line, as_json) for line in lines if line.is_error is is_error)
        if text:
            _write(is_error, text)


def _write(is_error: bool, text: str) -> None:
    """Writes to what is the stream now. It is the user's, so it may raise anything, and that is nobody's business."""
    stream: TextIO | None = sys.stderr if is_error else sys.stdout
    try:
        if stream is not None:
            _write_encodable(stream, text)
            stream.flush()
    except Exception:
        return


def _write_encodable(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _after_fork() -> None:
    """In the child: the thread, which may have held it, is not there."""
    global _writing
    _writing = threading.Lock()


def _before_fork() -> None:
    global _is_held
    _is_held = _writing.acquire(timeout=FORK_WAIT_S)


def _after_fork_in_parent() -> None:
    if _is_held:
        _writing.release()


_is_held = False
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork)
