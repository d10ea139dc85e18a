"""CompiledGraph: wires a graph once, then gives its inputs to its channels and hands out its results.

Compiling makes the channels and asks every actor, by one ordinary call each, to take its part; from then on an
execution is a write for each part of the input and a read for each output, and no call. Executions in flight never
exceed a channel's slots, so a write finds room at once. The graph ends by teardown, with its last reference, with the
runtime, or when a process in it dies: then whoever waits is told which actor died, and the others serve on.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Any, NoReturn

from actorflow import _hot
from actorflow.client import blocking, calls, cluster, runtime
from actorflow.client.handles import ActorHandle, ActorMethod, OwnActorMethod
from actorflow.collective import forming
from actorflow.dag import drawing, plan
from actorflow.dag.inputs import Signature, input_part
from actorflow.dag.members import Members
from actorflow.dag.options import GraphOptions, communicator_of
from actorflow.dag.profile import Profile
from actorflow.dag.results import CompiledRef, ResultStream
from actorflow.dag.schedule import Schedule, schedule
from actorflow.dag.transports import Group
from actorflow.errors import ChannelError, ChannelTimeoutError, GraphCapacityError
from actorflow.wire import failures

SLOTS_BYTES = 100 * 1024  # of a channel: what the core allows, less what each slot needs besides
SLOT_OVERHEAD_BYTES = 64
SMALLEST_SLOT_BYTES = 64
GROUP_TIMEOUT_S = 600.0  # a death is seen at once; this is for a member that is busy with a call

_numbers = itertools.count(1)
_graphs: weakref.WeakSet[CompiledGraph] = weakref.WeakSet()  # that are wired


class CompiledGraph:
    """A graph that is wired: `execute` it any number of times. Made by `node.experimental_compile()`.

    Several executions can be in flight. Usable from threads and event loops; ends with `teardown`, at the end of a
    `with` block, or when nobody holds it and its refs any more.
    """

    def __init__(self, graph: plan.Graph, methods: Sequence[ActorMethod], options: GraphOptions) -> None:
        self._end: BaseException | None = None  # why it runs no more
        self._channels: list[_hot.Hold] = []
        self._is_parents = False  # in a forked child
        self._ends: list[_hot.End] = []
        self._streams: list[ResultStream] = []
        self._name = f"{os.getpid()}-{next(_numbers)}"
        self._graph = graph
        self._options = options
        self._lock = threading.RLock()
        self._whole_writer: _hot.Writer | None = None  # where the input is not taken apart
        self._begun = 0  # executions that have refs, or whose results are dropped
        self._is_beginning = False  # under the lock: so who finds it set interrupts the same thread
        self._room = 0  # how many may be begun, as far as was looked at
        self._session = runtime.require()
        self._handles = [method.handle for method in methods]
        self._is_own = any(isinstance(method, OwnActorMethod) for method in methods)
        self._formed: list[Group] = []
        self._plan: Schedule = schedule(
            graph, self._name, options.max_inflight_executions, communicator_of(options)
        )
        self._signature = Signature(graph.accesses)
        handles = {actor: self._handles[actor] for actor in self._plan.members}
        self._members = Members(self._name, graph.label, handles)
        try:
            self._wire()
        except BaseException:
            self.teardown()
            for group in self._formed:
                forming.dissolve(self._actors_of(group), group.name)
            raise
        self._session.bind(self)
        _graphs.add(self)

    # -- compiling

    def _wire(self) -> None:
        slots = self._options.max_inflight_executions
        share = max(SMALLEST_SLOT_BYTES, SLOTS_BYTES // slots - SLOT_OVERHEAD_BYTES)
        slot_bytes = min(self._options.buffer_size_bytes, share)
        self._channels = channels = [
            _hot.channel_create(slots, slot_bytes, len(channel.readers)) for channel in self._plan.channels
        ]
        self._inputs = [(access, _hot.Writer(channels[number])) for access, number in self._plan.inputs]
        self._ends += [writer for _, writer in self._inputs]
        if self._graph.accesses == (None,):
            self._whole_writer = self._inputs[0][1]
        end_of_this = _end_finder(weakref.ref(self), self._graph.label)
        copies = [self._plan.outputs.count(index) for index in range(len(self._plan.results))]
        for end, count in zip(self._plan.results, copies, strict=True):
            reader = _hot.Reader(channels[end.channel], end.reader)
            self._ends.append(reader)
            label = self._plan.channels[end.channel].label
            most = self._options.max_buffered_results
            self._streams.append(ResultStream(reader, label, count, most, self._is_own, end_of_this))
        self._only_stream = None if self._graph.is_list else self._streams[0]
        if self._plan.groups:
            self._members.ask("pid")  # one that is stopped would have the others wait for it
        for group in self._plan.groups:
            actors, ranks = self._actors_of(group), range(len(group.actors))
            forming.form(actors, ranks, group.backend, group.name, GROUP_TIMEOUT_S)
            self._formed.append(group)
        self._members.install(self._plan.members, channels)

    def _actors_of(self, group: Group) -> list[ActorHandle]:
        return [self._handles[actor] for actor in group.actors]

    # -- executing

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Begins an execution with this input; returns a ref, or a list of refs for a MultiOutputNode, without waiting.

        Raises TypeError for arguments that the graph's input does not have, or that cannot be pickled;
        GraphCapacityError when max_inflight_executions are unread; ActorDiedError or ChannelError once the graph has
        ended. What fails here was not begun. Executions whose refs were all dropped are waited for where they fill the
        graph: ChannelTimeoutError after submit_timeout seconds.
        """
        with self._lock:
            self._refuse_reentry()
            self._is_beginning = True
            try:
                writer = self._whole_writer
                if (
                    writer is None
                    or self._begun >= self._room
                    or len(args) != 1
                    or kwargs
                    or self._end is not None
                    or writer.position != self._begun
                ):
                    return self._begin(args, kwargs)
                try:  # the same, quicker
                    writer.write(args[0], self._options.submit_timeout)
                except BaseException as error:
                    found = self._unwritten(0, args[0], error)
                    raise found from found.__cause__
                index = self._begun
                stream = self._only_stream
                result = self._refs(index) if stream is None else CompiledRef(self, stream, index)
                self._begun = index + 1  # only now: without refs it is nobody's
                return result
            finally:
                self._is_beginning = False

    async def execute_async(self, *args: Any, **kwargs: Any) -> Any:
        """As `execute`; the refs are to be awaited, as those of `execute` can be."""
        while self._is_full():
            oldest = self._finished()
            if not all(stream.is_leaving(oldest) for stream in self._streams):
                break
            for stream in self._streams:
                await stream.until_read(oldest)
        return self.execute(*args, **kwargs)

    def _refs(self, index: int) -> list[CompiledRef]:
        return [CompiledRef(self, self._streams[stream], index) for stream in self._plan.outputs]

    def _refuse_reentry(self) -> None:
        if self._is_beginning:  # and this thread has the lock
            raise RuntimeError(
                "an execution of this graph is being begun by this very thread: a signal handler, or the pickling of "
                "a value, that interrupts it cannot execute the same graph"
            )

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._end is not None:
            raise self._find_end()
        self._signature.check(args, kwargs)
        self._settle(RuntimeError("an exception of a signal handler broke off the writing of this input"))
        if self._is_full():
            self._make_room()
        self._write([input_part(access, args, kwargs) for access, _ in self._inputs])
        refs = self._refs(self._begun)
        self._begun += 1
        return refs if self._graph.is_list else refs[0]

    def _make_room(self) -> None:
        """Waits for the oldest execution where nobody has a ref to it; GraphCapacityError where somebody does."""
        oldest = self._finished()
        if not all(stream.is_dropped(oldest) for stream in self._streams):
            raise GraphCapacityError(limit=self._options.max_inflight_executions)
        for stream in self._streams:
            stream.take_dropped(oldest, self._options.submit_timeout)

    def _is_full(self) -> bool:
        """Whether as many executions are in flight as may be."""
        if self._begun < self._room:
            return False
        self._room = self._finished() + self._options.max_inflight_executions
        return self._begun >= self._room

    def _finished(self) -> int:
        """How many executions have had all their results read."""
        return min(stream.position for stream in self._streams)

    def _write(self, values: list[Any]) -> None:
        """One value into each input channel. What cannot be written makes no difference to later executions."""
        for number, value in enumerate(values):
            try:
                self._inputs[number][1].write(value, self._options.submit_timeout)
            except BaseException as error:
                found = self._unwritten(number, value, error)
                raise found from found.__cause__

    def _unwritten(self, number: int, value: Any, error: BaseException) -> BaseException:
        """A part of the input could not be written: takes back what was, and says what the user is told."""
        if isinstance(error, _hot.ChannelClosed):
            return self._find_end()
        if isinstance(error, _hot.NodeGoneError):
            return blocking.node_error()
        self._settle(error)
        access, _ = self._inputs[number]
        name = "input" if access is None else f"input {access!r}"
        if type(error) is TimeoutError:
            reason = f"no room within {self._options.submit_timeout:.3g} s (submit_timeout)"
            return ChannelTimeoutError(channel=name, reason=reason)
        return calls.translated(error, lambda: [(name, value)]) if isinstance(error, Exception) else error

    def _settle(self, error: BaseException) -> None:
        """Inputs that were written, wholly or in part, and have no refs are executions of that error, and nobody's.

        What broke them off may break this off too; it is done again then, before the next execution begins.
        """
        written = max(writer.position for _, writer in self._inputs)
        if written == self._begun:
            return
        node_id = self._session.node_id
        data = failures.encode_error(error, name="execute", node_id=node_id, pid=os.getpid(), attempt=1)
        for _, writer in self._inputs:
            while writer.position < written:
                writer.write_error(data, ())
        for index in range(self._begun, written):
            for stream in self._plan.outputs:
                self._streams[stream].drop(index)
        self._begun = written

    # -- looking inside

    def visualize(self, filename: str | None = None, format: str = "text") -> str:
        """The graph as "text" or "svg", with how each value travels; written to a file too, where one is named.

        ValueError for another format; OSError.
        """
        if format not in ("text", "svg"):
            raise ValueError(f"format={format!r} must be 'text' or 'svg'")
        picture = drawing.as_svg(self._graph) if format == "svg" else drawing.as_text(self._graph, self._plan)
        if filename is not None:
            with open(filename, "w", encoding="utf-8") as file:
                file.write(picture)
        return picture

    def profile(self, *args: Any, **kwargs: Any) -> Profile:
        """Runs one execution with this input and says where its time went. Raises what the execution raises.

        Others may be in flight: what they make it wait is measured with it. `str` of a Profile is a table.
        """
        self._members.ask("record", self._name, True)
        try:
            start_ns, slept = monotonic_ns(), self._slept()
            with self._lock:
                given = self.execute(*args, **kwargs)
                index = self._begun - 1
            result = [ref.get() for ref in given] if self._graph.is_list else given.get()
            total_s, sleeps = (monotonic_ns() - start_ns) * 1e-9, self._slept() - slept
            steps = self._members.timings(self._graph, index, start_ns)
        finally:
            self._members.ask("record", self._name, False)
        return Profile(result, total_s, steps, sleeps)

    def sleeps(self) -> int:
        """How often this process or an actor has gone to sleep so far while it waited for another one of the graph.

        Who waits looks first, for some microseconds, and then sleeps (on a futex; an event loop in its selector). With
        a CPU for each process, executions one after the other need no sleep; one costs its waker a system call, and
        tens of microseconds. Asks the actors; raises what ended the graph, once it has ended.
        """
        if self._end is not None:
            raise self._find_end()
        of_members: int = sum(self._members.ask("sleeps", self._name).values())
        return self._slept() + of_members

    def _slept(self) -> int:
        """Of these, this process."""
        return sum(end.sleeps for end in self._ends)

    # -- the end

    def teardown(self, kill_actors: bool = False) -> None:
        """Ends the graph; results that were not read are lost, and whoever waits for one gets ChannelError.

        At any time, again, and from a signal handler too. The actors leave the graph by themselves, after the step that
        they run, and serve ordinary calls meanwhile; those that wait in a transfer with a process that is stopped do so
        within a second. `kill_actors` ends them with their processes.
        """
        self._finish(ChannelError(channel=self._graph.label, reason="the graph was torn down"))
        if kill_actors and runtime.current() is self._session:
            for handle in self._handles:
                cluster.kill(handle)

    def _finish(self, error: BaseException) -> None:
        if self._end is None:
            self._end = error
        for end in self._ends:
            end.close()
        if not self._is_parents:
            self._close_channels()
        for stream in self._streams:
            stream.close()

    def _close_channels(self) -> None:
        """Those between actors too: one that waits for another hears of the end by them."""
        with contextlib.suppress(RuntimeError):  # the runtime was shut down, and closed them
            for channel in self._channels:
                _hot.channel_close(channel)
        self._channels = []

    def _find_end(self) -> BaseException:
        """The error for whoever finds a channel closed: the graph ends, if it has not yet."""
        if self._end is None:
            self._finish(self._members.death())
        assert self._end is not None
        return copy.copy(self._end)  # with a traceback of its own

    def unbind(self) -> None:
        """The runtime ends."""
        self._finish(ChannelError(channel=self._graph.label, reason="the runtime was shut down"))

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"the {self._graph.label} can only be used where it was compiled: give actors and tasks its results, or "
            "its actors, of which they can compile a graph of their own"
        )

    def leave_to_parent(self) -> None:
        """In a forked child: threads that are no more may have had the locks, and the ends are the parent's."""
        self._lock = threading.RLock()
        self._is_beginning = False
        self._is_parents = True
        for stream in self._streams:
            stream.leave_to_parent()
        reason = "it belongs to the process that forked this one"
        # No end is closed and no hold dropped: this may run before the client knows that it is another one.
        self._end = self._end or ChannelError(channel=self._graph.label, reason=reason)

    def __enter__(self) -> CompiledGraph:
        return self

    def __exit__(self, *_: object) -> None:
        self.teardown()

    def __del__(self) -> None:
        self.teardown()


def _end_finder(graph: weakref.ref[CompiledGraph], label: str) -> Callable[[], BaseException]:
    """What a graph's streams call when they find their channel closed; they do not keep it alive."""

    def find() -> BaseException:
        alive = graph()
        if alive is None:
            return ChannelError(channel=label, reason="nobody holds the graph any more")
        return alive._find_end()

    return find


def _after_fork() -> None:
    for graph in list(_graphs):
        graph.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)
