"""An actor's life in its worker: the constructor, then calls until the end, and word to the node of how it ended."""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import uvloop

from actorflow import _hot, errors
from actorflow.client import assignment, blocking, handles, runtime
from actorflow.client.actor_class import ActorClass, ActorPlan, retry_on, transport_of
from actorflow.errors import Death, DeathKind
from actorflow.wire import failures, outside
from actorflow.worker import printing, settling, timeline
from actorflow.worker.executor_async import AsyncExecutor
from actorflow.worker.executor_sync import SyncExecutor
from actorflow.worker.executor_threads import ThreadsExecutor
from actorflow.worker.functions import Body
from actorflow.worker.memberships import (
    AsyncMemberships,
    Memberships,
    SyncMemberships,
    ThreadsMemberships,
)

# Of what a constructor raised: the node keeps it for all who will call the actor.
LAST_WORDS_BYTES = 32 * 1024


def host(
    session: runtime.Runtime,
    mailbox: _hot.Hold,
    actor: Mapping[str, Any],
    given: assignment.Assignment,
    lacks: errors.RuntimeEnvSetupError | None,
) -> None:
    """Runs the actor of `mailbox` until it ends; the node knows how before this returns.

    `given`: its resources; `lacks`: why this process is not what the actor is to run in.
    """
    host = Host(session, mailbox, actor)
    host.lacks = lacks
    assignment.take(
        given._replace(
            actor_id=actor["id"],
            actor_name=actor["options"].get("name") or "",
            restarts=actor.get("restarts", 0),
            handle=lambda: handles.ActorHandle(mailbox, mailbox, handles.Description.of(actor["class"])),
            name_of=host.name_of,
        )
    )
    try:
        host.run()
    finally:  # the instance is freed with its last method
        assignment.take(assignment.NOTHING)


class Host:
    """The actor that this process is. `actor`: its id, class and name, as the node knows them."""

    def __init__(self, session: runtime.Runtime, mailbox: _hot.Hold, actor: Mapping[str, Any]) -> None:
        self._session = session
        self._mailbox = mailbox
        self.lacks: errors.RuntimeEnvSetupError | None = None
        self._id: str = actor["id"]
        self._class_name: str = actor["class"][0]
        name = actor["options"].get("name")
        self._title = f"{self._class_name} {name!r}" if name else self._class_name
        self._bodies: list[Body] = []
        self._methods: tuple[str, ...] = ()  # their names
        self._graphs: Memberships | None = None
        self._kept: Any = None  # the module that keeps tensors of results, where a method does
        self._regrouped: dict[int, Body] = {}  # methods in a group that the call asked for
        handles.become_actor(mailbox)
        self._printed_as = printing.title_of(self._class_name)
        printing.switch(self._printed_as)

    def run(self) -> None:
        """Constructor and calls."""
        plan = self._construct()
        if plan is None:
            return
        try:
            self._serve(plan)
        except settling.ExitActor as request:
            data, holds = self._end(DeathKind.EXIT_REQUESTED)
            for call in request.calls:
                call.fail(data, holds)
        else:
            if self._kept is not None:
                self._kept.wait_until_free()
            self._end(DeathKind.NO_HANDLES)

    # -- birth

    def _construct(self) -> ActorPlan | None:
        """Makes the instance, of which only its methods are kept; None when that failed and the node was told."""
        call = _hot.take_first(self._mailbox)
        if call is None:  # it was settled by the node: nobody can call this actor any more
            return None
        self._forbid_own_calls("the actor runs no call before its constructor has returned")
        try:
            if self.lacks is not None:
                raise self.lacks
            (first, *args), kwargs = call.arguments()
            plan: ActorPlan = first
            cls: Any = _hot.get(plan.cls)
            if isinstance(cls, ActorClass):  # it travelled as the name of what the decorator made
                cls = cls.cls
            _hot.enter(call)
            instance = cls(*args, **kwargs)
            self._printed_as = _shown(instance, self._printed_as)
            printing.switch(self._printed_as)
            self._bodies = [Body(self._answer, "__ready__")]
            self._methods = plan.description.methods
            self._bodies += [
                Body(
                    self._method(instance, cls, name),
                    f"{self._class_name}.{name}",
                    group,
                    retry_on(cls, name),
                )
                for name, group in zip(plan.description.methods, plan.method_groups, strict=True)
            ]
            self._bodies.append(Body(_caller(instance, plan.is_async), handles.CALL_NAME))
            for body in self._bodies:
                body.title = self._printed_as
        except BaseException as error:
            if settling.is_forked():
                raise
            self._end_unborn(call, error)
            return None
        finally:
            _hot.enter(None)
        self._keep_or_complete(call)
        self._session.tell("actor_initialised")
        return plan

    def _method(self, instance: Any, cls: type, name: str) -> Callable[..., Any]:
        """What calls of a method run."""
        function: Callable[..., Any] = getattr(instance, name)
        transport = transport_of(cls, name)
        if transport is None:
            return function
        self._kept = importlib.import_module("actorflow.collective.kept")  # few workers need it
        kept: Callable[..., Any] = self._kept.keeping(function, transport, self._title)
        return kept

    def _keep_or_complete(self, call: _hot.Call) -> None:
        """The constructor's call of an actor that may be restarted stays unread, for its next process."""
        if not (call.retries and settling.put_back(call)):
            call.complete(None)

    def _end_unborn(self, call: _hot.Call, error: BaseException) -> None:
        """The constructor raised: all who call the actor are told what."""
        if isinstance(error, settling.ExitActor):
            data, holds = self._end(DeathKind.EXIT_REQUESTED)
        else:
            data, holds = settling.encode(error, f"{self._class_name}.__init__", call.attempt)
            if len(data) > LAST_WORDS_BYTES:
                data = failures.encode_briefly(data)
            data, holds = self._end(DeathKind.INIT_RAISED, failures.decode_error(data, holds))
        call.fail(data, holds)

    # -- life

    def _serve(self, plan: ActorPlan) -> None:
        if plan.is_async:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve_async(plan.limits))
        elif plan.limits != (1,):
            blocking.forbid(None)
            threads = ThreadsExecutor(self._mailbox, self._body_in_group, plan.limits)
            self._graphs = ThreadsMemberships(self._body_named, threads.leave)
            threads.serve()
        else:
            self._forbid_own_calls("the actor runs one call at a time, and that is this one")
            self._graphs = graphs = SyncMemberships(self._body_named)
            SyncExecutor(self._mailbox, self._body, _refuse_coroutine, graphs=graphs).serve()

    async def _serve_async(self, limits: Sequence[int]) -> None:
        self._forbid_own_calls("the loop that has to run the call is blocked by this wait")
        executor = AsyncExecutor(self._mailbox, self._body_in_group, limits)
        self._graphs = AsyncMemberships(self._body_named, executor.leave)
        await executor.serve_actor()

    def _forbid_own_calls(self, reason: str) -> None:
        serving = threading.current_thread()
        handles.forbid_own_calls(lambda: threading.current_thread() is serving, reason)

    def name_of(self, _function: tuple[int, int], number: int) -> str:
        """What errors call the method of that number; of the constructor while there is none yet."""
        method, _ = handles.method_and_group(number)
        return self._bodies[method].name if self._bodies else f"{self._class_name}.__init__"

    def _body(self, call: _hot.Call) -> Body:
        return self._bodies[call.method]

    def _body_in_group(self, call: _hot.Call) -> Body:
        """What the call runs, in the group that it asked for; as a rule that is the method's own."""
        number = call.method
        if number <= handles.LARGEST_METHOD:
            return self._bodies[number]
        body = self._regrouped.get(number)
        if body is None:
            method, group = handles.method_and_group(number)
            body = copy.copy(self._bodies[method])
            body.group = group
            self._regrouped[number] = body  # only now: other threads find it there
        return body

    def _body_named(self, method: str) -> Body:
        return self._bodies[self._methods.index(method) + 1]

    def _answer(self, *request: Any) -> Any:
        """What `handle.__ready__()` calls, which asks for nothing, and `handle.__service__(...)`."""
        if not request:
            return None
        assert self._graphs is not None
        return self._graphs.answer(*request)

    # -- death

    def _end(self, kind: DeathKind, cause: BaseException | None = None) -> tuple[bytes, outside.Holds]:
        """Tells the node how the actor ended; returns what those who call it get, with what that names."""
        timeline.finish()  # the node ends this process next
        death = Death(kind, pid=os.getpid(), node_id=self._session.node_id)
        error = errors.ActorDiedError(actor_name=self._title, actor_id=self._id, death=death, cause=cause)
        data, holds = settling.encode(error, self._title)
        self._session.ask("actor_ended", holds, how=kind.name, error=data)
        return data, holds


def _caller(instance: Any, is_async: bool) -> Callable[..., Any]:
    """What `handle.__ray_call__(function, ...)` calls."""

    def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(instance, *args, **kwargs)

    async def call_in_loop(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        value = function(instance, *args, **kwargs)
        return await value if inspect.isawaitable(value) else value

    return call_in_loop if is_async else call


def _shown(instance: Any, otherwise: bytes) -> bytes:
    """What stands before the lines that the actor prints: what its class says of an instance, if it does."""
    kind: Any = type(instance)
    if kind.__repr__ is object.__repr__:
        return otherwise
    try:
        return printing.title_of(repr(instance).partition("\n")[0])
    except Exception:
        return otherwise


def _refuse_coroutine(call: _hot.Call, body: Body) -> None:
    raise errors.InternalError(reason=f"{body.name!r} is a coroutine of an actor that has no loop")
