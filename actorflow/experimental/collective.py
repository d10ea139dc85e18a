"""Collective operations of compiled graphs and groups of actors, under the names that Ray programs import."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from actorflow.collective.communicator import Factory
from actorflow.dag.collectives import allgather, allreduce, broadcast, reducescatter
from actorflow.util import collective

__all__ = [
    "allreduce",
    "allgather",
    "reducescatter",
    "broadcast",
    "create_collective_group",
    "destroy_collective_group",
]


def create_collective_group(
    actors: Sequence[Any], backend: str | Factory = "auto", name: str | None = None
) -> str:
    """Makes actors the members of a group, by their order; returns its name. Errors: as in af.util.collective."""
    group_name = name or f"group-{os.urandom(8).hex()}"
    collective.create_collective_group(actors, backend=backend, group_name=group_name)
    return group_name


def destroy_collective_group(group_or_name: str) -> None:
    """Makes the members leave the group."""
    collective.destroy_collective_group(group_or_name)
