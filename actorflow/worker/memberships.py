"""The compiled graphs that an actor is in: joining, following and leaving them, in the way of the actor's kind.

A sync actor runs its graphs' steps in its main thread, by turns with the calls of its mailbox; an async one in a task
for each graph, on its own loop; a threaded one in a thread for each. In all of them an actor can be in many graphs, and
it leaves one when that ends: by teardown, or by the death of a process in it. A step may wait in the midst
of a transfer then, for a process that is stopped: so a thread looks whether a graph with collective groups has ended,
and breaks these.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from actorflow import _hot
from actorflow.client.waiting import current_port
from actorflow.core.graphs import End, MemberPlan, Step, Timing
from actorflow.worker import printing, settling
from actorflow.worker.functions import Body
from actorflow.worker.graphs import Member, Reading, Writing

LOOK_S = 0.5
BodyOf = Callable[[str], Body]


class Memberships:
    """Base: what the driver of a graph can ask its actors for."""

    def __init__(self, body_of: BodyOf) -> None:
        self._body_of = body_of
        self._members: list[Member] = []

    def answer(self, what: str, *request: Any) -> Any:
        """Does what `handle.__service__(what, ...)` asks for."""
        if what == "join":
            self._join(*request)
        if what == "record":
            self._record(*request)
        if what == "timings":
            return self._timings(*request)
        if what == "sleeps":
            return self._sleeps(*request)
        return os.getpid()

    def _join(self, plan: MemberPlan, channels: Sequence[_hot.Hold]) -> None:
        count = len(plan.readers)
        readers = [
            _reading(_hot.Reader(channel, end.reader), end)
            for channel, end in zip(channels[:count], plan.readers, strict=True)
        ]
        writers = [
            _writing(_hot.Writer(channel), end)
            for channel, end in zip(channels[count:], plan.writers, strict=True)
        ]
        member = Member(plan, readers, writers, self._body_of_step)
        self._members.append(member)
        if member.groups:
            name, watched = f"graph-{member.graph}-watch", (member.ends, member.groups)
            threading.Thread(target=_break_at_end, args=watched, name=name, daemon=True).start()
        self._begin(member)

    def _leave(self, member: Member) -> None:
        self._members.remove(member)
        member.close()
        for group in member.groups:
            _tensors("collective.groups").leave(group)

    def _body_of_step(self, step: Step) -> Body:
        if step.part is None:
            return self._body_of(step.method)
        body: Body = _tensors("worker.collective_steps").body_of(step)
        return body

    def _begin(self, member: Member) -> None:
        """Has the member's steps run from now on."""
        raise NotImplementedError

    def _of(self, graph: str) -> list[Member]:
        return [member for member in self._members if member.graph == graph]

    def _record(self, graph: str, wanted: bool) -> None:
        for member in self._of(graph):
            member.record(wanted)

    def _timings(self, graph: str) -> list[Timing]:
        return [timing for member in self._of(graph) for timing in member.timings()]

    def _sleeps(self, graph: str) -> int:
        return sum(member.sleeps for member in self._of(graph))


def _tensors(module: str) -> Any:
    """A module for tensors between processes: by name, at first use, since few workers need any."""
    return importlib.import_module(f"actorflow.{module}")


def _break_at_end(ends: Sequence[_hot.End], groups: Sequence[str]) -> None:
    """Breaks the groups when their graph has ended. Does not know the member, which is to be freed when it leaves."""
    with contextlib.suppress(RuntimeError):  # the runtime ends
        while all(end.state == _hot.CHANNEL_OPEN for end in ends):
            time.sleep(LOOK_S)
        for group in groups:
            _tensors("collective.groups").abort(group, "the graph that it was formed for has ended")


def _reading(reader: _hot.Reader, end: End) -> Reading:
    if end.edge is None:
        return Reading(reader, reader.read)
    tensors = _tensors("worker.tensor_edges").TensorReader(reader, end.edge)
    return Reading(reader, tensors.read, tensors.receive_ahead)


def _writing(writer: _hot.Writer, end: End) -> Writing:
    if end.edge is None:
        return Writing(writer, writer.write, writer.write_error)
    write = _tensors("worker.tensor_edges").TensorWriter(writer, end.edge).write
    return Writing(writer, write, writer.write_error)


class SyncMemberships(Memberships):
    """Of an actor that runs one call at a time. `ends`: for each member the end that it waits for."""

    def __init__(self, body_of: BodyOf) -> None:
        super().__init__(body_of)
        self.ends: list[_hot.End] = []

    def _begin(self, member: Member) -> None:
        self.ends.append(member.waits_for())

    def step(self, index: int) -> None:
        """The end that a member waits for is ready: lets it go on. ExitActor, NodeGoneError."""
        member = self._members[index]
        try:
            self.ends[index] = member.advance()
        except _hot.ChannelClosed:
            del self.ends[index]
            self._leave(member)


class AsyncMemberships(Memberships):
    """Of an async actor. `on_exit`: called when a step asks for the actor's end."""

    def __init__(self, body_of: BodyOf, on_exit: Callable[[], None]) -> None:
        super().__init__(body_of)
        self._on_exit = on_exit
        self._tasks: set[asyncio.Task[None]] = (
            set()
        )  # those that still run at the loop's end are ended by its runner

    def _begin(self, member: Member) -> None:
        task = asyncio.get_running_loop().create_task(self._follow(member))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, member: Member) -> None:
        printing.enter(member.title)
        try:
            await member.follow(current_port())
        except (_hot.ChannelClosed, _hot.NodeGoneError):
            self._leave(member)
        except settling.ExitActor:  # the graph ends with the process: then it is known how that ended
            self._on_exit()
        except BaseException:
            self._leave(member)
            raise


class ThreadsMemberships(Memberships):
    """Of a threaded actor. `on_exit`: called when a step asks for the actor's end."""

    def __init__(self, body_of: BodyOf, on_exit: Callable[[], None]) -> None:
        super().__init__(body_of)
        self._on_exit = on_exit

    def _begin(self, member: Member) -> None:
        threading.Thread(
            target=self._follow, args=(member,), name=f"graph-{member.graph}", daemon=True
        ).start()

    def _follow(self, member: Member) -> None:
        try:
            member.run()
        except (_hot.ChannelClosed, _hot.NodeGoneError):
            self._leave(member)
        except settling.ExitActor:  # as above
            self._on_exit()
        except BaseException:
            self._leave(member)
            raise
