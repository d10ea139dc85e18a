"""What the node answers to each control call; a handler's name is the call's.

From whoever makes calls: open_queue, name_task, create_actor, kill_actor, get_actor, list_named_actors,
cancel. From workers: left, actor_initialised, actor_ended, ran. From what user code forked: forked. From whoever looks:
resources, nodes, state, code_names, validate, timeline.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from actorflow.core import events
from actorflow.core.events import GroupId
from actorflow.core.names import nearest_named
from actorflow.core.resources import ResourceSet
from actorflow.core.where import why_not_here
from actorflow.errors import DeathKind, PlacementGroupError, ProtocolError, TaskUnschedulableError
from actorflow.node.actors import Actor
from actorflow.node.cancelling import Wish
from actorflow.node.control import Answer, NotYet, Request
from actorflow.node.groups import facts_of
from actorflow.node.jobs import Job
from actorflow.node.server import Node
from actorflow.node.workers import Worker

NOTHING: Answer = (None, ())
NAME_WAIT_S = (
    1.0  # for the end of an actor that is about to: it takes milliseconds unless a call of it still runs
)


class Requests:
    """The node's answers. Registers itself with the node's control."""

    def __init__(self, node: Node) -> None:
        self._node = node
        for handler in (
            *(self.open_queue, self.create_actor, self.kill_actor, self.get_actor),
            *(self.create_group, self.remove_group, self.get_group, self.list_groups),
            *(self.list_named_actors, self.name_task, self.cancel, self.forked),
            *(self.left, self.actor_initialised, self.actor_ended, self.ran),
            *(self.resources, self.nodes, self.state, self.code_names, self.validate, self.timeline),
        ):
            node.control.handle(handler.__name__, handler)

    # -- from whoever makes calls

    def open_queue(self, request: Request) -> Answer:
        """{"shape": [[name, ten-thousandths], ...], "options": {"is_async", "environment"}, "where"}
        -> [queue's mailbox].

        The answer says why its calls never can run for want of resources, or "". TaskUnschedulableError,
        PlacementGroupError: they never can run where they are to.
        """
        job, where = self._job(request), request.field("where", dict, {})
        why = why_not_here(where, self._node.node_id, self._node.labels)
        if why is not None:
            raise TaskUnschedulableError(reason=why)
        shape, group = _shape(request, "shape"), _group(where)
        if group is not None:
            shape = self._node.groups.inside(group, shape)
        options = request.field("options", dict)
        is_async, environment = bool(options.get("is_async")), str(options.get("environment", ""))
        queue = self._node.scheduling.open_queue(job, shape, is_async, environment, group)
        return queue.why_never, [queue.mailbox]

    def name_task(self, request: Request) -> Answer:
        """{"name"}, [function]: what errors call the calls of an exported function."""
        self._node.name_task(request.reference(0, "cell").name, request.field("name", str))
        return NOTHING

    def create_actor(self, request: Request) -> Answer:
        """{"class": description, "options", "to_place": shape, "to_run": shape}, [actor, mailbox] -> [mailbox].

        ActorAlreadyExistsError: its name is that of an actor that lives, and does not end in NAME_WAIT_S.
        """
        job = self._job(request)
        handle, mailbox = request.reference(0, "actor"), request.reference(1, "mailbox")
        description, options = request.field("class", list), request.field("options", dict)
        namespace, name = options.get("namespace") or job.namespace, options.get("name") or ""
        if not request.has_waited and (ending := self._node.actors.ending(namespace, name)) is not None:
            raise NotYet(lambda again: self._node.after_death(ending, NAME_WAIT_S, again))
        if options.get("get_if_exists"):
            there = self._node.actors.named(namespace, name)
            if there is not None:
                return there.description, [there.mailbox]
        to_place, to_run, why_never = self._places_of_actor(request, options)
        if options.get("lifetime") != "detached":
            self._node.actors.create(job, handle, mailbox, description, options, to_place, to_run, why_never)
            return description, [mailbox]
        own_job = self._node.begin_own_job(job)
        try:
            actor = self._node.actors.create(
                own_job, handle, mailbox, description, options, to_place, to_run, why_never
            )
        except BaseException:
            self._node.end_job(own_job.id, "its actor's name was taken")
            raise
        self._node.end_with(own_job, actor)
        return description, [mailbox]

    def _places_of_actor(
        self, request: Request, options: dict[str, Any]
    ) -> tuple[ResourceSet, ResourceSet, str | None]:
        """What the actor takes to be placed and to run, and why it never can have that where it is to run."""
        to_place, to_run = _shape(request, "to_place"), _shape(request, "to_run")
        where = request.field("where", dict, {})
        why = why_not_here(where, self._node.node_id, self._node.labels)
        group = options["group"] = _group(where)
        if why is None and group is not None:
            try:
                to_place = self._node.groups.inside(group, to_place.most(to_run))
                to_run = self._node.groups.inside(group, to_run)
            except PlacementGroupError as error:
                why = str(error)
        return to_place, to_run, why

    # -- placement groups

    def create_group(self, request: Request) -> Answer:
        """{"bundles": [[[name, ten-thousandths], ...], ...], "strategy", "name", "detached"} -> its number."""
        job = self._job(request)
        bundles = [_resources(pairs, "a bundle") for pairs in request.field("bundles", list)]
        group = self._node.groups.create(
            job,
            bundles,
            request.field("strategy", str),
            request.field("name", str),
            request.field("detached", bool),
        )
        return group.id, ()

    def remove_group(self, request: Request) -> Answer:
        """{"group"} -> nothing."""
        killer = self._node.store.slot(request.process[0]).pid
        self._node.groups.remove(GroupId(request.field("group", int)), f"by process {killer}")
        return NOTHING

    def get_group(self, request: Request) -> Answer:
        """{"name"} -> [[number, bundles], []]; when there is none [None, near names]."""
        namespace, name = self._job(request).namespace, request.field("name", str)
        group = self._node.groups.named(namespace, name)
        if group is not None:
            return [facts_of(group), []], ()
        return [None, self._node.groups.nearest(namespace, name)], ()

    def list_groups(self, _: Request) -> Answer:
        """-> facts of each placement group, by its id."""
        return self._node.groups.table(), ()

    # -- actors

    def kill_actor(self, request: Request) -> Answer | None:
        """{"no_restart"}, [mailbox] -> nothing, once its process has ended: no later call reaches that one."""
        actor = self._node.actors.of_mailbox(request.reference(0, "mailbox"))
        if actor is not None:
            by = f"by process {self._node.store.slot(request.process[0]).pid}"
            no_restart = request.field("no_restart", bool, True)
            self._node.actors.kill(actor, by, no_restart, lambda: request.answer(None))
            return None
        return NOTHING

    def get_actor(self, request: Request) -> Answer:
        """{"name", "namespace"} -> description, [mailbox]; near names and no references when there is none."""
        namespace = request.field("namespace", str, "") or self._job(request).namespace
        name = request.field("name", str)
        actor = self._node.actors.named(namespace, name)
        if actor is not None:
            return actor.description, [actor.mailbox]
        named = [(actor.namespace, actor.name) for actor in self._node.actors if actor.name]
        return nearest_named(namespace, name, named), ()

    def list_named_actors(self, request: Request) -> Answer:
        """{"all_namespaces"} -> [[namespace, name], ...], sorted; of the job's namespace unless all are asked for."""
        own = None if request.field("all_namespaces", bool) else self._job(request).namespace
        named = [(actor.namespace, actor.name) for actor in self._node.actors if actor.name]
        return sorted(pair for pair in named if own in (None, pair[0])), ()

    def cancel(self, request: Request) -> Answer:
        """{"error", "child_error": ERROR bytes, "wish", "force"}, [call]: it was found running and is to end."""
        self._node.cancellations.ask(
            Wish(
                request.reference(0, "cell"),
                request.field("wish", int),
                request.field("error", bytes),
                request.field("child_error", bytes),
                request.field("force", bool),
            )
        )
        return NOTHING

    # -- from workers

    def left(self, request: Request) -> Answer:
        """{"worn_out": whether it has run enough calls}: the worker reads no queue any more and waits for an order."""
        worker, worn_out = self._worker(request), request.field("worn_out", bool, False)
        self._node.workers.left(worker)
        self._node.tell(events.WorkerLeftQueue(worker.id, worn_out))
        return NOTHING

    def actor_initialised(self, request: Request) -> Answer:
        """The constructor of the worker's actor has returned."""
        self._node.actors.initialised(self._worker(request))
        return NOTHING

    def actor_ended(self, request: Request) -> Answer:
        """{"how": name of a DeathKind, "error": ERROR bytes that callers get}, what these name: it ends for good, its
        process next."""
        how = request.field("how", str)
        if how not in DeathKind.__members__:
            raise ProtocolError(reason=f"how {how!r} is no way to die")
        self._node.actors.worker_ends(
            self._worker(request), DeathKind[how], request.field("error", bytes), request.references
        )
        return NOTHING

    def ran(self, request: Request) -> Answer:
        """{"is_actor", "events": [[name, thread, start_ns, end_ns], ...]}: calls that have ended in the worker."""
        pid, is_actor = self._worker(request).pid, request.field("is_actor", bool)
        self._node.timeline.extend([pid, is_actor, *event] for event in request.field("events", list))
        return NOTHING

    # -- from what user code forked

    def forked(self, request: Request) -> Answer:
        """The process that asks was forked by user code from another client."""
        self._node.forked(request.process)
        return NOTHING

    # -- from whoever looks

    def resources(self, _: Request) -> Answer:
        """-> {"total": amounts, "available": amounts}, in ones."""
        self._node.scheduling.look_at_all()
        scheduler = self._node.scheduler
        return {"total": scheduler.total, "available": scheduler.available}, ()

    def nodes(self, _: Request) -> Answer:
        """-> one description for each node."""
        node = {
            "NodeID": self._node.node_id,
            "Alive": True,
            "NodeManagerHostname": socket.gethostname(),
            "NodePid": os.getpid(),
            "Resources": self._node.scheduler.total,
            "Labels": self._node.labels,
        }
        return [node], ()

    def timeline(self, _: Request) -> Answer:
        """-> [[pid, is_actor, name, thread, start_ns, end_ns], ...], the latest; nothing where that is off."""
        return (list(self._node.timeline) if self._node.timeline.maxlen else None), ()

    def state(self, _: Request) -> Answer:
        """-> {"jobs", "workers", "actors"}: what is there now."""
        return {
            "jobs": [_job_facts(job) for job in self._node.jobs.values()],
            "workers": [_worker_facts(worker) for worker in self._node.workers],
            "actors": [_actor_facts(actor) for actor in self._node.actors],
        }, ()

    def code_names(self, request: Request) -> Answer:
        """{"codes": [[offset, generation, method], ...]} -> the name of each, nothing where it is not known."""
        codes = request.field("codes", list)
        return [self._node.name_of((offset, generation), method) for offset, generation, method in codes], ()

    def validate(self, _: Request) -> Answer:
        """-> nothing; fails with InternalError where the books of resources, queues or actors are wrong."""
        self._node.scheduler.validate()
        self._node.actors.validate()
        self._node.groups.validate()
        return NOTHING

    # -- who asks

    def _job(self, request: Request) -> Job:
        job = self._node.job_of(request.process)
        if job is None or job.has_ended:
            raise ProtocolError(reason="whoever asks belongs to no job that is running")
        return job

    def _worker(self, request: Request) -> Worker:
        worker = self._node.workers.find(request.process)
        if worker is None:
            raise ProtocolError(reason="only a worker may say this")
        return worker


def _shape(request: Request, name: str) -> ResourceSet:
    """Resources as a list of [name, ten-thousandths]."""
    return _resources(request.field(name, list), name)


def _group(where: dict[str, Any]) -> tuple[int, int, bool] | None:
    """(placement group, bundle index, whether it captures children) of a requirement."""
    if "group" not in where:
        return None
    number, index, captures = where["group"]
    return int(number), int(index), bool(captures)


def _resources(pairs: Any, name: str) -> ResourceSet:
    try:
        units = {str(resource): int(amount) for resource, amount in pairs}
        return ResourceSet(units)
    except (TypeError, ValueError) as error:
        raise ProtocolError(reason=f"{name} {pairs!r} is no list of resources: {error}") from None


def _job_facts(job: Job) -> dict[str, Any]:
    return {
        "id": int(job.id),
        "namespace": job.namespace,
        "driver_pid": job.driver_pid,
        "driver": job.description["driver"],
        "queues": len(job.queues),
    }


def _worker_facts(worker: Worker) -> dict[str, Any]:
    return {
        "id": int(worker.id),
        "pid": worker.pid,
        "job": int(worker.job.id) if worker.job is not None else None,
        "queue": int(worker.queue.id) if worker.queue is not None else None,
    }


def _actor_facts(actor: Actor) -> dict[str, Any]:
    return {
        "id": actor.hex,
        "class": actor.description[0],
        "name": actor.name,
        "namespace": actor.namespace,
        "job": int(actor.job.id),
        "state": actor.state.name,
        "pid": actor.worker.pid if actor.worker is not None else None,
    }
