"""What workers print: read from their pipes as it comes, cut into lines, sent to the driver of their job.

Guarantees: a worker never waits for a driver, only for this loop: what a driver does not take in time is dropped, and
it is told how many lines. What a worker has written before it ended, however it ended, is read. A worker that prints
one line at once has it sent at once; one that goes on is read every few milliseconds.
"""

from __future__ import annotations

import asyncio
import os

from actorflow.node.jobs import Job
from actorflow.node.log import warn
from actorflow.node.workers import Worker
from actorflow.shm.titles import Titles
from actorflow.wire import messages
from actorflow.wire.printed import Lines, Text

READ_BYTES = 65_536  # what a pipe holds
PAUSE_S = 0.005  # a pipe that fills up in this time is read without a pause


class Stream:
    """Standard output or error of one worker."""

    __slots__ = ("descriptor", "is_error", "lines", "worker")

    def __init__(self, worker: Worker, descriptor: int, is_error: bool) -> None:
        self.worker = worker
        self.descriptor = descriptor
        self.is_error = is_error
        self.lines = Lines()


class Output:
    """The streams of all workers. A stream is followed to its end: what a worker started may outlive it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, titles: Titles) -> None:
        self._loop = loop
        self._titles = titles
        self._streams: dict[int, Stream] = {}  # by descriptor
        self._of: dict[Worker, list[Stream]] = {}  # of those that have not ended

    def follow(self, worker: Worker, output: int, errors: int) -> None:
        """Reads what the worker prints from now on. The descriptors become this object's."""
        for descriptor, is_error in ((output, False), (errors, True)):
            os.set_blocking(descriptor, False)
            self._streams[descriptor] = stream = Stream(worker, descriptor, is_error)
            self._of.setdefault(worker, []).append(stream)
            self._loop.add_reader(descriptor, self._on_readable, stream)

    def finish(self, worker: Worker) -> None:
        """The worker has ended: sends all that it has printed."""
        for stream in self._of.pop(worker, ()):
            self._drain(stream)

    def end_job(self, job: Job) -> None:
        """The job's driver leaves: sends what its workers have printed up to now, and nothing more."""
        for stream in list(self._streams.values()):
            if stream.worker.job is job:
                self._drain(stream)
        job.print = None

    def close(self) -> None:
        """Every worker has ended: sends what is left, and closes all."""
        for stream in list(self._streams.values()):
            self._drain(stream)
            self._close(stream)

    # -- reading

    def _on_readable(self, stream: Stream) -> None:
        if self._read(stream) < READ_BYTES // 2 and stream.descriptor in self._streams:
            self._loop.remove_reader(stream.descriptor)
            self._loop.call_later(PAUSE_S, self._resume, stream)

    def _resume(self, stream: Stream) -> None:
        if self._streams.get(stream.descriptor) is stream:
            self._loop.add_reader(stream.descriptor, self._on_readable, stream)

    def _read(self, stream: Stream) -> int:
        """Reads and sends what is there; returns how many bytes. At the stream's end closes it."""
        try:
            data = os.read(stream.descriptor, READ_BYTES)
        except BlockingIOError:
            return 0
        if data:
            self._send(stream, stream.lines.feed(data, self._titles.read(stream.worker.slot)))
        else:
            self._finish_lines(stream)
            self._close(stream)
        return len(data)

    def _drain(self, stream: Stream) -> None:
        """Reads what a pipe can hold, in two steps: more comes only from what the worker has left behind."""
        if self._streams.get(stream.descriptor) is stream:
            if self._read(stream):
                self._read(stream)
            self._finish_lines(stream)

    def _finish_lines(self, stream: Stream) -> None:
        self._send(stream, stream.lines.finish(self._titles.read(stream.worker.slot)))

    def _close(self, stream: Stream) -> None:
        if self._streams.pop(stream.descriptor, None) is not None:
            self._loop.remove_reader(stream.descriptor)
            os.close(stream.descriptor)

    # -- sending

    def _send(self, stream: Stream, texts: list[Text]) -> None:
        worker = stream.worker
        for title, text in texts:
            if worker.job is None:
                warn(
                    f"a worker (pid {worker.pid}) that has no job yet says: {text.decode(errors='replace').rstrip()}"
                )
            elif worker.job.print is not None:
                message = messages.Output(worker.pid, title.decode(errors="replace"), stream.is_error, text)
                self._print(worker.job, message)

    def _print(self, job: Job, message: messages.Output) -> None:
        assert job.print is not None
        if job.lost_lines and job.print(messages.OutputLost(job.lost_lines)):
            job.lost_lines = 0
        if not job.print(message):
            job.lost_lines += message.text.count(b"\n")
