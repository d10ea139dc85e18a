"""Which collective groups a graph needs: for the tensors of its edges, and for its collective operations.

Edges of one transport share a group of all actors at their ends; collective operations one for each list of members.
What the driver writes or reads goes through shared memory: it is in no group.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from actorflow.dag.plan import DRIVER, Collective, TensorTransport

_IN_CHANNELS = ("auto", "shm")

_Key = tuple[str, int, tuple[int, ...]]  # transport, id() of what makes its communicators, members


@dataclass(frozen=True)
class Group:
    """A group of a graph. `backend`: as af.util.collective takes it; `actors`: by their ranks."""

    name: str
    backend: Any
    actors: tuple[int, ...]


class Groups:
    """The groups of one graph.

    `graph`: what they are named after; `communicator`: what makes those for which no other was named, or None.
    """

    def __init__(self, graph: str, communicator: Any) -> None:
        self._graph = graph
        self._communicator = communicator
        self._made: dict[_Key, Group] = {}

    def add_edge(self, transport: TensorTransport, writer: int, readers: tuple[int, ...]) -> None:
        """An edge whose tensors may have to go by a group."""
        if not _is_by_group(transport, writer, readers):
            return
        key = self._key(transport, ())
        group = self._made.get(key) or self._new(transport, ())
        members = dict.fromkeys((*group.actors, writer, *readers))
        self._made[key] = dataclasses.replace(group, actors=tuple(members))

    def add_collective(self, collective: Collective | None) -> None:
        """An operation that may be part of a collective one."""
        if collective is not None:
            key = self._key(collective.transport, collective.actors)
            if key not in self._made:
                self._made[key] = self._new(collective.transport, collective.actors)

    def of_edge(self, transport: TensorTransport, writer: int, readers: tuple[int, ...]) -> Group | None:
        """By which group the tensors go; None: through the channel."""
        if not _is_by_group(transport, writer, readers):
            return None
        return self._made[self._key(transport, ())]

    def of_collective(self, collective: Collective) -> Group:
        """The group of a collective operation."""
        return self._made[self._key(collective.transport, collective.actors)]

    def all(self) -> tuple[Group, ...]:
        """Every group, in the order in which they are formed."""
        return tuple(self._made.values())

    def _key(self, transport: TensorTransport, actors: tuple[int, ...]) -> _Key:
        return transport.kind, id(transport.communicator), actors

    def _new(self, transport: TensorTransport, actors: tuple[int, ...]) -> Group:
        backend = transport.communicator or self._communicator or transport.kind
        return Group(f"{self._graph}, {transport.kind} {len(self._made)}", backend, actors)


def _is_by_group(transport: TensorTransport, writer: int, readers: tuple[int, ...]) -> bool:
    return transport.kind not in _IN_CHANNELS and DRIVER not in (writer, *readers)
