"""The node's end of what workers print: who gets which line, what a worker's end gives, and what is dropped."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

from actorflow.node.output import Output
from actorflow.shm.titles import Titles
from actorflow.wire import messages
from actorflow.wire.printed import framed


class Job:
    """A driver that takes `room` messages."""

    def __init__(self) -> None:
        self.got: list[messages.Message] = []
        self.room = 1_000
        self.lost_lines = 0
        self.print: Any = self._print

    def _print(self, message: messages.Message) -> bool:
        if len(self.got) >= self.room:
            return False
        self.got.append(message)
        return True


class Worker:
    """What is known of a worker, and can be looked for by it."""

    pid = 7
    slot = 3

    def __init__(self, job: Job) -> None:
        self.job = job


class Followed:
    """A worker of a job, the ends to write of its pipes, and the node's output."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.titles = Titles(8)
        self.output = Output(loop, self.titles)
        self.job = Job()
        worker: Any = Worker(self.job)
        self.worker = worker
        (output, self.stdout), (errors, self.stderr) = os.pipe(), os.pipe()
        self.output.follow(self.worker, output, errors)

    def turn(self) -> None:
        for _ in range(3):
            self.loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def followed() -> Iterator[Followed]:
    loop = asyncio.new_event_loop()
    followed = Followed(loop)
    yield followed
    os.close(followed.stdout)
    os.close(followed.stderr)
    followed.output.close()
    loop.close()


def test_lines_go_to_the_driver_of_the_workers_job(followed: Followed) -> None:
    followed.titles.write(3, b"render")
    os.write(followed.stdout, framed(b"train", b"one\n") + b"from C\nhalf")
    os.write(followed.stderr, b"wrong\n")
    followed.turn()
    assert followed.job.got == [
        messages.Output(7, "train", False, b"one\n"),
        messages.Output(7, "render", False, b"from C\n"),
        messages.Output(7, "render", True, b"wrong\n"),
    ]


def test_the_end_of_a_worker_gives_all_that_it_has_written(followed: Followed) -> None:
    text = b"".join(b"%d\n" % number for number in range(9_000))
    os.write(followed.stdout, text + b"no end")
    followed.output.finish(followed.worker)
    got = b"".join(m.text for m in followed.job.got if isinstance(m, messages.Output))
    assert got == text + b"no end\n"
    os.write(followed.stdout, b"from a child that outlives it\n")
    followed.output.close()
    assert followed.job.got[-1] == messages.Output(7, "", False, b"from a child that outlives it\n")


def test_what_a_driver_does_not_take_is_counted(followed: Followed) -> None:
    followed.job.room = 0
    os.write(followed.stdout, b"1\n2\n3\n")
    followed.turn()
    followed.job.room = 9
    os.write(followed.stderr, b"4\n")
    followed.turn()
    assert followed.job.got == [messages.OutputLost(3), messages.Output(7, "", True, b"4\n")]


def test_a_driver_that_leaves_gets_what_is_there_and_no_more(followed: Followed) -> None:
    os.write(followed.stdout, b"before\n")
    followed.output.end_job(followed.worker.job)
    os.write(followed.stdout, b"after\n")
    followed.output.finish(followed.worker)
    assert followed.job.got == [messages.Output(7, "", False, b"before\n")]


def test_a_worker_without_a_job_is_the_nodes(followed: Followed, capsys: pytest.CaptureFixture[str]) -> None:
    followed.worker.job = None
    os.write(followed.stderr, b"cannot begin\n")
    followed.output.finish(followed.worker)
    assert "(pid 7) that has no job yet says: cannot begin\n" in capsys.readouterr().err
