"""Runs coroutines, many at once, on one uvloop: methods of async actors, and async tasks.

An actor's mailbox rings the loop (client/waiting.py); each call becomes a task of its own, with its own context. A
task queue has several readers and rings none of them in particular, so while async tasks run here the queue is looked
at by a timer, and when none runs the worker goes back to waiting for its queue as for any other call.
With concurrency groups, what a full group cannot start waits here, and calls of others go past it.
Guarantees: at most `limit` calls run; each is settled; `serve_*` returns only when none runs any more.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from time import monotonic

from actorflow import _hot, config
from actorflow.client.waiting import current_port
from actorflow.worker import generators, interrupts, printing, settling
from actorflow.worker.functions import Body
from actorflow.worker.groups import Groups

CALLS_A_TURN = 64  # taken before those that run get a turn
QUEUE_LOOK_S = 0.001
TASKS_AT_ONCE = 1000  # async tasks on one worker
SETTLED_S = 1.0  # after which an actor has most likely touched what it needs to begin


class AsyncExecutor:
    """The calls of one mailbox that run on the loop. All methods are for the loop's thread.

    `limits`: of the default concurrency group and of each other.
    """

    def __init__(
        self, mailbox: _hot.Hold, resolve: Callable[[_hot.Call], Body], limits: Sequence[int]
    ) -> None:
        self._mailbox = mailbox
        self._resolve = resolve
        self._limit = sum(limits)
        self._groups: Groups[tuple[_hot.Call, Body]] | None = Groups(limits) if len(limits) > 1 else None
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # of no call: what calls set is theirs alone
        # Those that run; the call is there once its coroutine can be cancelled.
        self._tasks: dict[asyncio.Task[None], _hot.Call | None] = {}
        self._many_titles = False  # what an actor prints bears its own
        self._taking = True
        self._is_full = False
        self._changed = asyncio.Event()  # nothing is taken any more, or a task has ended
        self._leaving: list[_hot.Call] = []  # asked for the actor's end
        self._is_to_leave = False  # something else did

    async def serve_actor(self) -> None:
        """Runs calls until the mailbox is abandoned. Raises ExitActor when a call did."""
        with interrupts.listening(self._hear):
            await self._serve_actor()

    async def _serve_actor(self) -> None:
        port = current_port()
        facts = _hot.Target(self._mailbox).facts
        port.listen(self._mailbox, self._take)
        self._loop.call_later(SETTLED_S, _hot.give_back)
        self._take()
        while self._taking:
            self._changed.clear()
            if not _hot.node_alive():
                raise _hot.NodeGoneError("the node has ended")
            if facts()["abandoned"] and self._is_idle():
                self._take()
                self._taking = not self._is_idle()
            else:
                await self._changed.wait()
        port.ignore(self._mailbox)
        await self._finish()

    def _is_idle(self) -> bool:
        """Whether no call runs, and none waits for a place in its group: the next one may be about to take it."""
        return not self._tasks and (self._groups is None or self._groups.is_idle)

    async def serve_queue(self, call: _hot.Call, body: Body) -> None:
        """Runs an async task, others that come while one runs, and those that come soon after."""
        self._many_titles = True
        with interrupts.listening(self._hear):
            await self._serve_queue(call, body)

    async def _serve_queue(self, call: _hot.Call, body: Body) -> None:
        self._start(call, body)
        spin_s = config.current().spin_us * 1e-6
        quiet_at = 0.0
        while not _hot.must_leave():
            self._take()
            if self._tasks:
                quiet_at = monotonic() + spin_s
                await self._change_or_look()
            elif monotonic() > quiet_at or not _hot.yield_cpu():
                break
            else:
                _hot.task_done()
                await asyncio.sleep(0)
        await self._finish()

    async def _change_or_look(self) -> None:
        """Returns when a task may have ended, or when it is time to look at the queue again."""
        self._changed.clear()
        timer = self._loop.call_later(QUEUE_LOOK_S, self._changed.set)
        await self._changed.wait()
        timer.cancel()

    async def _finish(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        _hot.enter(None)
        if self._leaving or self._is_to_leave:
            if self._groups is not None:
                self._leaving += [call for call, _ in self._groups.drain()]
            raise settling.ExitActor(self._leaving)

    # -- taking

    def _take(self) -> None:
        """Starts calls that wait, as many as may run."""
        for _ in range(CALLS_A_TURN):
            self._is_full = len(self._tasks) >= self._limit
            if self._is_full or not self._taking:
                return
            try:
                call = _hot.take_nowait(self._mailbox)
            except _hot.ClosedError:
                self.take_no_more()
                return
            if call is None:
                if not self._tasks:
                    self._changed.set()  # it may be abandoned
                return
            self._begin(call)
        self._loop.call_soon(self._take)

    def leave(self) -> None:
        """Ends the actor: `serve_actor` raises ExitActor once the calls that run have ended."""
        self._is_to_leave = True
        self.take_no_more()

    def take_no_more(self) -> None:
        """What runs goes on; nothing more is started."""
        self._taking = False
        self._changed.set()

    def _begin(self, call: _hot.Call) -> None:
        try:
            body = self._resolve(call)
        except BaseException as error:
            settling.fail(call, error, "task")
            return
        if self._groups is not None and not self._groups.admit(body.group, (call, body)):
            return
        self._launch(call, body)

    def _launch(self, call: _hot.Call, body: Body) -> None:
        """Starts the call; one that is done at once is followed by those that wait for its place."""
        following: tuple[_hot.Call, Body] | None = (call, body)
        while following is not None:
            call, body = following
            if body.is_async or call.returns < 0:
                self._start(call, body)
                return
            self._run_sync(call, body)
            following = self._next_of(body.group)

    def _launch_next(self, group: int) -> None:
        """A call of the group has ended: starts one that waits for its place."""
        following = self._next_of(group)
        if following is not None:
            self._launch(*following)
        if not self._tasks:
            self._changed.set()

    def _next_of(self, group: int) -> tuple[_hot.Call, Body] | None:
        following = self._groups.ended(group) if self._groups is not None else None
        if following is not None and (self._leaving or self._is_to_leave):
            self._leaving.append(following[0])
            return None
        return following

    # -- running

    def _start(self, call: _hot.Call, body: Body) -> None:
        task = self._loop.create_task(self._run(call, body))
        self._tasks[task] = None
        if self._groups is not None:
            task.add_done_callback(lambda _: self._launch_next(body.group))

    def _ending(self, task: asyncio.Task[None]) -> None:
        """The last that a task does: a callback of the loop for each would be a tenth of a call's time."""
        del self._tasks[task]
        if self._is_full:
            self._is_full = False
            self._loop.call_soon(self._take, context=self._context)
        if not self._tasks:
            self._changed.set()

    async def _run(self, call: _hot.Call, body: Body) -> None:
        task = asyncio.current_task(self._loop)  # without it, it asks the system for the process' id
        assert task is not None
        if self._many_titles:
            printing.enter(body.title)
        retry_on = None
        try:
            if call.wish:
                interrupts.refuse_cancelled(call)
            args, kwargs = call.arguments()
            retry_on = body.retry_on
            self._tasks[task] = call
            if limit_s := call.limit_s:
                self._begin_limit(call, task, limit_s)
            if body.is_coroutine:
                value = await _hot.entering(call, body.function(*args, **kwargs))
            else:
                _hot.enter(call)
                value = body.function(*args, **kwargs)
            if call.returns != 1:
                value = await _hot.entering(call, generators.collect_async(call, value, body.name))
        except settling.ExitActor:
            self._leaving.append(call)
            self.take_no_more()
        except asyncio.CancelledError as error:
            # Where the loop ends with the node, that is what the callers are told.
            if call.told or _hot.node_alive():
                settling.fail(call, error, body.name)
            if not call.told:
                raise
        except BaseException as error:
            settling.fail(call, error, body.name, retry_on)
        else:
            settling.settle(call, value, body.name)
        finally:
            self._ending(task)

    def _run_sync(self, call: _hot.Call, body: Body) -> None:
        """A plain method of an async actor: runs at once, and the loop waits for it."""
        retry_on = None
        try:
            args, kwargs = call.arguments()
            retry_on = body.retry_on
            value = _hot.run(call, body.function, args, kwargs)
        except settling.ExitActor:
            self._leaving.append(call)
            self.take_no_more()
        except BaseException as error:
            settling.fail(call, error, body.name, retry_on)
        else:
            settling.settle(call, value, body.name)

    # -- cancelling

    def _begin_limit(self, call: _hot.Call, task: asyncio.Task[None], limit_s: float) -> None:
        """Interrupts the call once it has run for too long."""
        timer = self._loop.call_later(limit_s, self._interrupt, task, call, _hot.TOLD_LIMIT)
        task.add_done_callback(lambda _: timer.cancel())

    def _hear(self) -> None:
        """In the handler of a signal, wherever the loop's thread is: some call may have been cancelled."""
        self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        for task, call in list(self._tasks.items()):
            if call is not None and call.wish:
                self._interrupt(task, call, _hot.TOLD_RUNNING)
        if self._groups is not None:
            for call, body in self._groups.withdraw(lambda item: bool(item[0].wish)):
                call.tell(_hot.TOLD_BEFORE)
                settling.fail(call, KeyboardInterrupt(), body.name)

    def _interrupt(self, task: asyncio.Task[None], call: _hot.Call, why: int) -> None:
        if not call.told:
            call.tell(why)
            interrupts.cancel_children(call)
            task.cancel()
