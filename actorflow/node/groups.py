"""The placement groups of the node: has their resources reserved, and ends what runs in those that are removed.

The decisions are `actorflow.core.placement`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from actorflow.core import events
from actorflow.core.events import GroupId, JobId
from actorflow.core.placement import Group, GroupEffect, PlacementGroups, Release, Reserve, hex_of
from actorflow.core.resources import ResourceSet, in_ones
from actorflow.errors import PlacementGroupError
from actorflow.node.actors import Actors
from actorflow.node.coroner import Coroner
from actorflow.node.jobs import Job
from actorflow.node.scheduling import Scheduling


class Groups:
    """All groups. `tell` hands an event to the scheduler."""

    def __init__(
        self,
        total: ResourceSet,
        node_id: str,
        scheduling: Scheduling,
        actors: Actors,
        coroner: Coroner,
        tell: Callable[[events.Event], object],
    ) -> None:
        self._groups = PlacementGroups(total)
        self._node_id = node_id
        self._scheduling = scheduling
        self._actors = actors
        self._coroner = coroner
        self._tell = tell
        self._made = 0
        scheduling.group_reserved = self._groups.reserved

    def create(
        self, job: Job, bundles: Sequence[ResourceSet], strategy: str, name: str, detached: bool
    ) -> Group:
        """Takes on a group and asks for its resources. PlacementGroupError: its name is taken."""
        number = GroupId(self._made + 1)
        group = Group(number, job.id, strategy, tuple(bundles), name, job.namespace, detached)
        effects = self._groups.created(group)
        self._made = number
        self._perform(effects)
        return group

    def remove(self, group: GroupId, why: str) -> None:
        """Ends a group and what runs in it."""
        self._perform(self._groups.removed(group, why))

    def end_job(self, job: JobId) -> None:
        """Ends the job's groups, those that are detached excepted."""
        self._perform(self._groups.job_ended(job))

    def named(self, namespace: str, name: str) -> Group | None:
        """The living group of that name."""
        return self._groups.named(namespace, name)

    def nearest(self, namespace: str, name: str) -> list[str]:
        """Names of living groups that are like a wrong one."""
        return self._groups.nearest(namespace, name)

    def inside(self, place: Sequence[Any], shape: ResourceSet) -> ResourceSet:
        """What a call takes in a (group, bundle index, ...). PlacementGroupError: it never can."""
        return self._groups.inside(GroupId(int(place[0])), int(place[1]), shape)

    def validate(self) -> None:
        """InternalError where the books of groups are wrong."""
        self._groups.validate()

    def table(self) -> dict[str, Any]:
        """What there is to know of each group, by its id."""
        return {hex_of(group.id): self._facts(group) for group in self._groups}

    def _perform(self, effects: Sequence[GroupEffect]) -> None:
        for effect in effects:
            group = effect.group
            if isinstance(effect, Reserve):
                self._tell(events.GroupRequested(group.id, group.job, group.bundles))
            elif isinstance(effect, Release):
                self._end(group)
                self._tell(events.GroupReleased(group.id))

    def _end(self, group: Group) -> None:
        why = f"it was removed: {group.why}"
        error = self._coroner.encode(PlacementGroupError(group_id=hex_of(group.id), reason=why))
        self._scheduling.end_group(group.id, error)
        for actor in self._actors:
            if actor.to_run.group == group.id:
                self._actors.kill(actor, f"as its placement group was removed: {group.why}", True, _nothing)

    def _facts(self, group: Group) -> dict[str, Any]:
        return {
            "placement_group_id": hex_of(group.id),
            "name": group.name,
            "bundles": [in_ones(bundle.units) for bundle in group.bundles],
            "bundles_to_node_id": [self._node_id for _ in group.bundles],
            "strategy": group.strategy,
            "state": group.state.name,
            "why": group.why,
        }


def facts_of(group: Group) -> list[Any]:
    """What a handle of the group is made of."""
    return [group.id, [in_ones(bundle.units) for bundle in group.bundles]]


def _nothing() -> None:
    """Nobody waits for the end of an actor whose group was removed."""
