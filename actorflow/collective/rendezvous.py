"""How members of a group find each other: a small actor that lives until all of them have come.

It tells everyone who all the others are and where rank 0 has its store. So no port and no file is agreed upon
beforehand, and a member that cannot come (its actor is dead, it asked for another size) ends the wait of the rest.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from actorflow.client.decorator import remote
from actorflow.client.handles import ActorHandle

NAME_PREFIX = "actorflow.collective."


class Arrival(NamedTuple):
    """What a member says of itself. `member`: (slot, epoch); `port`: of rank 0's store, which the others leave 0."""

    rank: int
    size: int
    backend: str
    member: tuple[int, int]
    port: int


class Meeting(NamedTuple):
    """What the members are told: all arrivals in the order of their ranks; or, where `problem`, why there are none."""

    identity: str
    arrivals: tuple[Arrival, ...]
    problem: str = ""
    is_over: bool = False  # who asked came after the decision: there may be another meeting of that name


@remote(num_cpus=0, max_concurrency=100_000)
class Rendezvous:
    """The meeting of one group: each member's call returns when the last one has come."""

    def __init__(self, identity: str, is_named: bool) -> None:
        self._identity = identity
        self._is_named = is_named
        self._arrivals: dict[int, Arrival] = {}
        self._decided = asyncio.Event()
        self._problem = ""

    async def join(self, arrival: Arrival, timeout_s: float) -> Meeting:
        """All members, once they are there."""
        if self._is_named and self._decided.is_set():
            return Meeting(self._identity, (), is_over=True)
        self._admit(arrival)
        try:
            async with asyncio.timeout(timeout_s):
                await self._decided.wait()
        except TimeoutError:
            missing = sorted(set(range(arrival.size)) - self._arrivals.keys())
            self._decide(f"rank {', '.join(map(str, missing))} did not join within {timeout_s:g} s")
        members = () if self._problem else tuple(self._arrivals[rank] for rank in range(arrival.size))
        return Meeting(self._identity, members, self._problem)

    async def fail(self, problem: str) -> None:
        """Ends the meeting: some member will not come."""
        self._decide(problem)

    def _admit(self, arrival: Arrival) -> None:
        if self._decided.is_set():
            return
        first = next(iter(self._arrivals.values()), arrival)
        if (arrival.size, arrival.backend) != (first.size, first.backend):
            self._decide(
                f"rank {arrival.rank} joined with size {arrival.size} and backend {arrival.backend!r}, rank "
                f"{first.rank} with size {first.size} and backend {first.backend!r}"
            )
        elif arrival.rank in self._arrivals:
            self._decide(f"two processes joined as rank {arrival.rank}")
        else:
            self._arrivals[arrival.rank] = arrival
            if len(self._arrivals) == arrival.size:
                self._decide("")

    def _decide(self, problem: str) -> None:
        if not self._decided.is_set():
            self._problem = problem
            self._decided.set()


def for_members(identity: str) -> ActorHandle:
    """A meeting that whoever has the handle can join."""
    made: Any = Rendezvous
    handle: ActorHandle = made.remote(identity, False)
    return handle


def by_name(group: str, identity: str) -> ActorHandle:
    """The meeting of the job's group of that name, which the first to ask for it makes."""
    made: Any = Rendezvous
    named = made.options(name=NAME_PREFIX + group, get_if_exists=True)
    handle: ActorHandle = named.remote(identity, True)
    return handle
