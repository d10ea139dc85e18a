"""The actors of a compiled graph as the driver sees them: asked to take their part, and for how one of them died."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic, sleep
from typing import Any

from actorflow import _hot
from actorflow.client import blocking, runtime
from actorflow.client.handles import ActorHandle
from actorflow.client.runtime import SILENCE_S
from actorflow.core.graphs import MemberPlan, Timing
from actorflow.dag.plan import Graph
from actorflow.dag.profile import StepProfile
from actorflow.errors import (
    ActorDiedError,
    ActorUnavailableError,
    ChannelError,
    ChannelTimeoutError,
    Death,
    DeathKind,
)
from actorflow.shm.process import process_state
from actorflow.wire import outside

LOOK_S = 0.01
FIND_S = 1.0  # how long the dead one is looked for among those that do not answer at once


class Members:
    """The handles of a graph's actors, by their numbers in it. `graph`: its id; `label`: what errors call it."""

    def __init__(self, graph: str, label: str, handles: Mapping[int, ActorHandle]) -> None:
        self._graph = graph
        self._label = label
        self._handles = handles
        self._pids: dict[int, int] = {}

    def install(self, plans: Mapping[int, MemberPlan], channels: Sequence[_hot.Hold]) -> None:
        """Returns once every actor has taken its part. Raises what one of them raised: ActorDiedError; and as `ask`.
        Those who have taken it leave when the channels are closed."""
        answers = {
            actor: self._handles[actor].__service__(
                "join", plan, [channels[end.channel] for end in (*plan.readers, *plan.writers)]
            )
            for actor, plan in plans.items()
        }
        self._pids = self._answers(answers)

    def ask(self, *request: Any) -> dict[int, Any]:
        """What each of them answers to a request about this graph. One that is busy is waited for; ChannelTimeoutError:
        one does not answer, and its process is stopped."""
        return self._answers({actor: handle.__service__(*request) for actor, handle in self._handles.items()})

    def _answers(self, asked: Mapping[int, Any]) -> dict[int, Any]:
        while True:
            try:
                return dict(zip(asked, blocking.get_briefly(list(asked.values()), SILENCE_S), strict=True))
            except TimeoutError as error:
                if type(error) is not TimeoutError:  # the answer's own
                    raise
            self._refuse_stopped([actor for actor, answer in asked.items() if not answer.is_done()])

    def _refuse_stopped(self, actors: Sequence[int]) -> None:
        """ChannelTimeoutError where the process of one of these actors is stopped."""
        pids = {fact["id"]: fact["pid"] for fact in runtime.require().ask("state")[0]["actors"]}
        for actor in actors:
            handle = self._handles[actor]
            pid = pids.get(_id_of(handle))
            if pid is not None and process_state(pid) == "stopped":
                name = f"actor {handle._actor_description.name} ({_id_of(handle)}, pid {pid})"
                raise ChannelTimeoutError(
                    channel=self._label,
                    reason=f"{name} is stopped, and has not answered for {SILENCE_S:g} s",
                    advice="let its process go on (SIGCONT) and try again, or kill the actor",
                )

    def timings(self, graph: Graph, execution: int, start_ns: int) -> list[StepProfile]:
        """How long each step of an execution took, once that has ended and was recorded; `start_ns`: when it began."""
        deadline = monotonic() + FIND_S
        while True:
            found = [
                _profiled(graph, actor, timing, start_ns)
                for actor, timings in self.ask("timings", self._graph).items()
                for timing in timings
                if timing.execution == execution
            ]
            if len(found) == len(graph.operations) or monotonic() > deadline:
                return found

    def death(self) -> BaseException:
        """The error that says which of them has died, and how. One that ends just now may answer once more."""
        deadline = monotonic() + FIND_S
        try:
            while monotonic() < deadline:
                found = self._dead_one(deadline)
                if found is not None:
                    return found
                sleep(LOOK_S)
        except _hot.NodeGoneError:
            return blocking.node_error()
        return ChannelError(channel=self._label, reason="a process of the graph has left it or died")

    def _dead_one(self, deadline: float) -> BaseException | None:
        """Asks all of them; the death of the first that proves to be dead."""
        asked = {handle.__service__("pid"): actor for actor, handle in self._handles.items()}
        while asked:
            answered, _ = _hot.wait(list(asked), 1, max(0.0, deadline - monotonic()))
            if not answered:
                return None
            found = self._death_of(asked.pop(answered[0]), answered[0])
            if found is not None:
                return found
        return None

    def _death_of(self, actor: int, answer: Any) -> BaseException | None:
        """What an answer says of its actor's death; None: it lives."""
        error = answer.error()
        if isinstance(error, ActorUnavailableError):
            return ActorDiedError(actor_name=error.actor_name, actor_id=error.actor_id, death=error.death)
        if error is not None:
            return error  # type: ignore[no-any-return]
        if answer.result() == self._pids.get(actor):
            return None
        handle = self._handles[actor]
        death = Death(DeathKind.RESTARTED, pid=self._pids.get(actor))
        return ActorDiedError(
            actor_name=handle._actor_description.name,
            actor_id=_id_of(handle),
            death=death,
        )


def _id_of(handle: ActorHandle) -> str:
    return outside.hex_name(handle._actor_door.target.mailbox)


def _profiled(graph: Graph, actor: int, timing: Timing, start_ns: int) -> StepProfile:
    begin_ns = timing.start_ns + timing.wait_ns
    label = graph.operations[timing.operation].label
    times = (begin_ns - start_ns, timing.wait_ns, timing.read_ns, timing.compute_ns, timing.write_ns)
    start_s, wait_s, read_s, compute_s, write_s = (time * 1e-9 for time in times)
    return StepProfile(label, actor, start_s, wait_s, read_s, compute_s, write_s, timing.sleeps)
