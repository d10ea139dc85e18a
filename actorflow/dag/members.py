"""The actors of a compiled graph as the driver sees them: asked to take their part, and for how one of them died."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic, sleep
from typing import Any

from actorflow import _hot
from actorflow.client import blocking, outside
from actorflow.client.handles import ActorHandle
from actorflow.core.graphs import MemberPlan, Timing
from actorflow.dag.plan import Graph
from actorflow.dag.profile import StepProfile
from actorflow.errors import ActorDiedError, ActorUnavailableError, ChannelError, Death, DeathKind

LOOK_S = 0.01
FIND_S = 1.0  # how long the dead one is looked for among those that do not answer at once


class Members:
    """The handles of a graph's actors, by their numbers in it."""

    def __init__(self, graph: str, handles: Mapping[int, ActorHandle]) -> None:
        self._graph = graph
        self._handles = handles
        self._pids: dict[int, int] = {}

    def install(self, plans: Mapping[int, MemberPlan], channels: Sequence[_hot.Hold]) -> None:
        """Returns once every actor has taken its part. Raises what one of them raised: ActorDiedError."""
        answers = [
            self._handles[actor].__service__(
                "join", plan, [channels[end.channel] for end in (*plan.readers, *plan.writers)]
            )
            for actor, plan in plans.items()
        ]
        self._pids = dict(zip(plans, blocking.get_briefly(answers), strict=True))

    def ask(self, *request: Any) -> dict[int, Any]:
        """What each of them answers to a request about this graph."""
        answers = [handle.__service__(*request) for handle in self._handles.values()]
        return dict(zip(self._handles, blocking.get_briefly(answers), strict=True))

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
        return ChannelError(channel=self._graph, reason="a process of the graph has left it or died")

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
            actor_id=outside.hex_name(handle._actor_door.target.mailbox),
            death=death,
        )


def _profiled(graph: Graph, actor: int, timing: Timing, start_ns: int) -> StepProfile:
    begin_ns = timing.start_ns + timing.wait_ns
    label = graph.operations[timing.operation].label
    times = (begin_ns - start_ns, timing.wait_ns, timing.read_ns, timing.compute_ns, timing.write_ns)
    start_s, wait_s, read_s, compute_s, write_s = (time * 1e-9 for time in times)
    return StepProfile(label, actor, start_s, wait_s, read_s, compute_s, write_s, timing.sleeps)
