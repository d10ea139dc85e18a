"""Groups of actors, formed and dissolved from outside: each joins as if that were a call of one of its methods."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from actorflow import _hot
from actorflow.client import blocking
from actorflow.client.handles import ActorHandle
from actorflow.collective import groups, rendezvous
from actorflow.collective.communicator import Factory


def form(
    actors: Sequence[ActorHandle], ranks: Sequence[int], backend: str | Factory, name: str, timeout_s: float
) -> None:
    """Makes actors the members of a group; returns once it is formed. Raises what keeps one of them from joining:
    CollectiveError, ActorDiedError, ImportError; then none is a member."""
    identity = os.urandom(8).hex()
    meeting = rendezvous.for_members(identity)
    joins = [
        actor.__ray_call__.remote(_enter, name, rank, len(actors), backend, meeting, timeout_s)
        for actor, rank in zip(actors, ranks, strict=True)
    ]
    try:
        _await_all(joins)
    except BaseException as error:
        meeting.fail.remote(f"a member cannot join: {error}")
        _leave_all(actors, name, identity)  # and no earlier group of that name
        raise


def dissolve(actors: Sequence[ActorHandle], name: str) -> None:
    """Makes actors leave a group, those that are in it; returns when they have. A dead actor is in none."""
    _leave_all(actors, name, "")


def _leave_all(actors: Sequence[ActorHandle], name: str, identity: str) -> None:
    leaving = [actor.__ray_call__.remote(_leave, name, identity) for actor in actors]
    while leaving:
        _, leaving = blocking.wait_briefly(leaving)


def _enter(_: Any, name: str, rank: int, size: int, backend: Any, meeting: Any, timeout_s: float) -> Any:
    def enter() -> None:
        groups.join(name, rank, size, backend, lambda _: meeting, timeout_s)

    # An async actor goes on meanwhile: it awaits what it is given.
    return asyncio.to_thread(enter) if asyncio._get_running_loop() is not None else enter()


def _leave(_: Any, name: str, identity: str) -> None:
    groups.leave(name, identity)


def _await_all(refs: list[Any]) -> None:
    """Returns when all are done; raises the first error at once."""
    while refs:
        ready, refs = blocking.wait_briefly(refs)
        for ref in ready:
            _hot.get(ref)
