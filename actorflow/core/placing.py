"""Actors that wait for a process, in the order in which they came, and what those that have one hold.

An actor is placed when `to_place` and `to_run` are free together. It holds both until its worker has taken it, and
`to_run` until its process is gone. The oldest that does not fit has room set aside for it, if its demand can be had
from tasks alone; where it waits for other actors to end, `bypass_limit` younger ones may take for life what it waits
for, and then they wait behind it. Younger ones that only pass through, and keep nothing of what it waits for, go on
as long as it does not wait for them alone.

Placement groups wait in the same order, as actors that need no process: what they have is filled into a pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from actorflow.core.book import Book
from actorflow.core.events import ActorId, ActorRequested, GroupId, GroupRequested, WorkerId
from actorflow.core.placement import pool_of
from actorflow.core.queues import NEVER_S, Job
from actorflow.core.resources import GpuShare, ResourceSet, Units, add, why_never
from actorflow.core.sharing import Division
from actorflow.errors import InternalError


@dataclass(slots=True, eq=False)
class Actor:
    """An actor that wants or has a process. `holds`: what is taken for it now.

    A placement group is one too, with `bundles`; its id is that of the group, below zero, and it starts at once.
    """

    id: ActorId
    job: Job
    to_run: ResourceSet
    demand: ResourceSet  # to be placed: the larger of to_place and to_run
    order: int
    asked_s: float = NEVER_S
    bypassed: int = 0
    holds: ResourceSet | None = None  # None: waits
    gpus: GpuShare = ()
    worker: WorkerId | None = None
    started: bool = False
    bundles: tuple[ResourceSet, ...] = ()


Alike = tuple[
    ResourceSet, ResourceSet
]  # actors of one demand stand in one line: where one does not fit, none does


class Placing:
    """The actors of a node, as far as resources and processes go."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._order = 0
        self.actors: dict[ActorId, Actor] = {}
        self._waiting: dict[Alike, dict[ActorId, Actor]] = {}
        self.unhosted: dict[ActorId, Actor] = {}  # placed, no worker yet
        self.reserved: list[GroupId] = []  # placement groups that have just got their resources
        self._beside_actors: Units = dict(book.total.units)  # what tasks may have at most
        self._passing: Units = {}  # what actors that are being started give back soon

    @property
    def waiting(self) -> int:
        """How many actors wait for resources."""
        return sum(len(line) for line in self._waiting.values())

    def request(self, event: ActorRequested) -> str | None:
        """Puts an actor last in the order. Returns why it can never be placed, and forgets it then."""
        if event.actor in self.actors:
            raise InternalError(reason=f"actor {event.actor} was requested twice")
        demand = event.to_place.most(event.to_run)
        why = why_never(demand, self._book.total)
        if why is not None:
            return why
        self._enter(event.actor, self._book.job(event.job), event.to_run, demand)
        return None

    def request_group(self, event: GroupRequested) -> None:
        """Puts a placement group last in the order. Its resources are named at once, so that calls can wait for it."""
        if event.group in self._book.pools:
            raise InternalError(reason=f"placement group {event.group} was requested twice")
        self._book.add_pool(event.group, pool_of(event.group, event.bundles))
        add(self._beside_actors, self._book.pools[event.group].units, 1, 1)
        demand = ResourceSet.sum_of(event.bundles)
        actor = self._enter(_group_actor(event.group), self._book.job(event.job), demand, demand)
        actor.bundles = event.bundles

    def _enter(self, actor_id: ActorId, job: Job, to_run: ResourceSet, demand: ResourceSet) -> Actor:
        self._order += 1
        actor = Actor(actor_id, job, to_run, demand, self._order)
        actor.job.actors += 1
        self.actors[actor.id] = actor
        self._book.use_pool(demand, 1)
        self._waiting.setdefault((demand, to_run), {})[actor.id] = actor
        return actor

    # -- placing -----------------------------------------------------------------------------------
    def place(self, division: Division) -> None:
        """Places all that can be placed now, and sets room aside for the oldest that can not."""
        head: Actor | None = None  # the one that room is set aside for
        barriers: list[
            tuple[Actor, frozenset[str]]
        ] = []  # older ones that wait for actors to end, and for what
        for actor in self._oldest_of_each():
            if not self._may_pass(actor, barriers):
                continue
            if self._fits(actor, head, division) and self._take(actor):
                division.use(actor.demand)
                for older, names in barriers:
                    older.bypassed += not names.isdisjoint(actor.to_run.units)
            elif not actor.demand.fits(self._beside_actors):
                barriers.append((actor, frozenset(actor.demand.lacking(self._beside_actors))))
            elif head is None:
                head = actor
                division.set_aside(actor.demand, actor)

    def _oldest_of_each(self) -> Iterator[Actor]:
        """The oldest of each line, oldest first; the next of a line when the one before it was placed."""
        heads = [next(iter(line.values())) for line in self._waiting.values()]
        heads.sort(key=lambda actor: actor.order)
        while heads:
            actor = heads.pop(0)
            yield actor
            line = self._waiting.get((actor.demand, actor.to_run))
            if actor.holds is not None and line:
                heads.append(next(iter(line.values())))
                heads.sort(key=lambda actor: actor.order)

    def _may_pass(self, actor: Actor, barriers: Iterable[tuple[Actor, frozenset[str]]]) -> bool:
        limit = self._book.policy.bypass_limit
        return not any(
            older.bypassed >= limit and not names.isdisjoint(actor.to_run.units) for older, names in barriers
        )

    def _fits(self, actor: Actor, head: Actor | None, division: Division) -> bool:
        if division.fits(actor.demand):
            return True
        free = self._book.free
        if head is None or not actor.demand.fits(free):
            return False
        keeps = not actor.to_run.units.keys().isdisjoint(head.demand.lacking(free))
        once_started = {name: units + self._passing.get(name, 0) for name, units in free.items()}
        return not keeps and not head.demand.fits(once_started)

    def _take(self, actor: Actor) -> bool:
        gpus = self._take_gpus(actor)
        if gpus is None:
            return False
        actor.gpus = gpus
        self._hold(actor, actor.demand)
        self._leave_line(actor)
        if actor.bundles:
            actor.started = True
            self._book.fill_pool(_group_of(actor), gpus)
            self.reserved.append(_group_of(actor))
        else:
            self.unhosted[actor.id] = actor
        return True

    def _take_gpus(self, actor: Actor) -> GpuShare | None:
        """The devices of an actor, or of all bundles of a group; None when there are not enough."""
        devices = self._book.devices_of(actor.to_run)
        taken: list[tuple[int, int]] = []
        parts = [bundle.gpus for bundle in actor.bundles] or [actor.to_run.gpus]
        for units in sorted(parts, reverse=True):  # whole ones first, so that parts do not take them apart
            share = devices.take(units)
            if share is None:
                devices.give_back(tuple(taken))
                return None
            taken += share
        return tuple(taken)

    def _hold(self, actor: Actor, amounts: ResourceSet | None) -> None:
        """Changes what the actor holds."""
        for change, times in ((actor.holds, -1), (amounts, 1)):
            if change is not None:
                self._book.hold(actor.job, change, times)
                add(self._beside_actors, actor.to_run, -times, -times)
        self._note_passing(actor, -1)
        actor.holds = amounts
        self._note_passing(actor, 1)

    def _note_passing(self, actor: Actor, times: int) -> None:
        if actor.holds is actor.demand and not actor.started:
            add(self._passing, actor.demand, times, times)
            add(self._passing, actor.to_run, -times, -times)

    # -- what happens ------------------------------------------------------------------------------
    def hosted(self, actor: Actor, worker: WorkerId) -> None:
        """A worker was given to a placed actor."""
        del self.unhosted[actor.id]
        actor.worker = worker

    def started(self, actor_id: ActorId) -> None:
        """The worker has taken the actor: it keeps what it needs to run. Ignored where it is gone by now."""
        actor = self.actors.get(actor_id)
        if actor is not None and actor.worker is not None and not actor.started:
            self._hold(actor, actor.to_run)
            actor.started = True

    def gone(self, actor_id: ActorId) -> WorkerId | None:
        """The actor needs no process any more. Returns the worker to stop; what it holds is kept until that is gone."""
        actor = self.actors.get(actor_id)
        if actor is None:
            return None
        if actor.worker is None:
            self._leave_line(actor)
            self._forget(actor)
        return actor.worker

    def release_group(self, group: GroupId) -> None:
        """The placement group is no more: gives its resources back once no queue and no actor is made for them."""
        if group in self._book.pools:
            self._book.pools[group].leaving = True
            self._leave_line(self.actors[_group_actor(group)])

    def give_back_groups(self) -> None:
        """Gives back the resources of groups that are no more and have no users."""
        for group, pool in list(self._book.pools.items()):
            if pool.leaving and not pool.users:
                actor = self.actors[_group_actor(GroupId(group))]
                if pool.filled:
                    add(self._book.free, pool.units, -1, -1)
                self._leave_line(actor)
                self._forget(actor)
                self._book.drop_pool(GroupId(group))
                for name in pool.units.units:
                    self._beside_actors.pop(name, None)
                    self._passing.pop(name, None)

    def _leaves(self, actor: Actor) -> bool:
        """Whether it is a placement group that is no more."""
        return bool(actor.bundles) and self._book.pools[_group_of(actor)].leaving

    def process_gone(self, actor_id: ActorId) -> None:
        """The process of a hosted actor has ended: gives back all that it held, and forgets it."""
        self._forget(self.actors[actor_id])

    def _leave_line(self, actor: Actor) -> None:
        alike = (actor.demand, actor.to_run)
        line = self._waiting.get(alike, {})
        if line.pop(actor.id, None) and not line:
            del self._waiting[alike]

    def _forget(self, actor: Actor) -> None:
        self._hold(actor, None)
        self._book.devices_of(actor.to_run).give_back(actor.gpus)
        self._book.use_pool(actor.demand, -1)
        self.unhosted.pop(actor.id, None)
        del self.actors[actor.id]
        actor.job.actors -= 1
        self._book.forget_job_if_done(actor.job)

    # -- checking ----------------------------------------------------------------------------------
    def held(self) -> Iterator[tuple[Actor, ResourceSet]]:
        """What each placed actor holds."""
        return ((actor, actor.holds) for actor in self.actors.values() if actor.holds is not None)

    def validate(self) -> None:
        """Raises InternalError unless sums and lines are what the actors say."""
        beside, passing = dict(self._book.total.units), dict.fromkeys(self._passing, 0)
        for actor, holds in self.held():
            add(beside, actor.to_run, -1, -1)
            if not actor.started:
                add(passing, holds, 1, 1)
                add(passing, actor.to_run, -1, -1)
        waiting = {id for line in self._waiting.values() for id in line}
        right = {
            "what is left beside actors": beside == self._beside_actors,
            "what passes through": passing == self._passing,
            "who waits": waiting
            == {a.id for a in self.actors.values() if a.holds is None and not self._leaves(a)},
            "who has no worker": self.unhosted.keys()
            == {
                a.id
                for a in self.actors.values()
                if a.holds is not None and a.worker is None and not a.bundles
            },
            "who started": all(a.worker is not None or a.bundles for a in self.actors.values() if a.started),
            "who uses groups": all(
                pool.users >= sum(a.demand.group == group for a in self.actors.values())
                for group, pool in self._book.pools.items()
            ),
        }
        for check, passed in right.items():
            if not passed:
                raise InternalError(reason=f"actors to be placed: {check} is wrong")


def _group_actor(group: GroupId) -> ActorId:
    return ActorId(-group)


def _group_of(actor: Actor) -> GroupId:
    return GroupId(-actor.id)
