"""Runs calls one after another in the worker's main thread: tasks, and methods of sync actors."""

from __future__ import annotations

from collections.abc import Callable

from actorflow import _hot
from actorflow.worker import generators, settling
from actorflow.worker.functions import Body
from actorflow.worker.memberships import SyncMemberships

Resolve = Callable[[_hot.Call], Body]
RunAsync = Callable[[_hot.Call, Body], None]
IDLE_S = 1.0


class SyncExecutor:
    """Takes calls from a mailbox and runs each to its end.

    `run_async`: what runs one that is a coroutine. `on_idle`: runs when none has come for a second, for a task queue.
    `graphs`: of an actor, the compiled graphs that it is in: their steps are run by turns with the calls.
    """

    def __init__(
        self,
        mailbox: _hot.Hold,
        resolve: Resolve,
        run_async: RunAsync,
        on_idle: Callable[[], None] | None = None,
        graphs: SyncMemberships | None = None,
    ) -> None:
        self._mailbox = mailbox
        self._resolve = resolve
        self._run_async = run_async
        self._on_idle = on_idle
        self._graphs = graphs
        self._ends = [] if graphs is None else graphs.ends
        self._patience_s = None if on_idle is None else IDLE_S
        self._leaving: list[_hot.Call] = []  # asked for the actor's end

    def serve(self) -> None:
        """Runs calls until there will be none: the mailbox is abandoned or closed, or the node wants the worker.

        Raises ExitActor when a call did.
        """
        while self._run_next_or_step() if self._ends else self._run_next():
            pass
        if self._leaving:
            raise settling.ExitActor(self._leaving)

    def _run_next(self) -> bool:
        # Everything of a call is local to this frame: what it refers to is freed before the next wait.
        try:
            call = _hot.take(self._mailbox, self._patience_s)
        except _hot.ClosedError:
            return False
        if call is None:
            if self._on_idle is None or _hot.must_leave():
                return False
            self._on_idle()
            return True
        try:
            self._run(call)
        finally:
            _hot.task_done()
        return not self._leaving

    def _run_next_or_step(self) -> bool:
        try:
            found = _hot.take_or_ready(self._mailbox, None, self._ends)
        except _hot.ClosedError:
            return False
        if found is None:
            return False
        if isinstance(found, int):
            assert self._graphs is not None
            self._graphs.step(found)
            return True
        try:
            self._run(found)
        finally:
            _hot.task_done()
        return not self._leaving

    def _run(self, call: _hot.Call) -> None:
        name, retry_on = "task", None
        try:
            body = self._resolve(call)
            name = body.name
            if body.is_async:
                self._run_async(call, body)
                return
            args, kwargs = call.arguments()
            retry_on = body.retry_on
            value = _hot.run(call, body.function, args, kwargs)
            if call.returns != 1:
                value = _hot.run(call, generators.collect, (call, value, name), {})
        except settling.ExitActor:
            self._leaving.append(call)
        except BaseException as error:
            settling.fail(call, error, name, retry_on)
        else:
            settling.settle(call, value, name)
