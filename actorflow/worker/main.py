"""A worker's life: attaches, then does what the node orders: serve a task queue, host an actor, exit.

It is forked from the zygote, so everything is imported already. It serves one job, whose import path and directory it
takes over with the first order.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import gc
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgpack
import uvloop

from actorflow import _hot, config
from actorflow.client import assignment, runtime
from actorflow.core.resources import in_ones
from actorflow.errors import NodeDiedError, RuntimeEnvSetupError
from actorflow.runtime_env import environment as environments
from actorflow.shm.titles import Titles
from actorflow.worker import interrupts, printing, settling, timeline
from actorflow.worker.actor import host
from actorflow.worker.devices import Devices
from actorflow.worker.executor_async import TASKS_AT_ONCE, AsyncExecutor
from actorflow.worker.executor_sync import IDLE_S, SyncExecutor
from actorflow.worker.functions import Body, Functions


def prepared(titles: Titles) -> Callable[[int, int, int, tuple[int, int], int], NoReturn]:
    """Does once, before workers are forked, what is the same in all: each would write to pages that they share."""
    printing.prepare()
    interrupts.prepare()
    return functools.partial(run, titles)


def run(
    titles: Titles, memfd: int, slot: int, epoch: int, commands: tuple[int, int], node_pidfd: int
) -> NoReturn:
    """The whole life of a worker process that was just forked for that slot. Ends in SystemExit."""
    printing.begin(titles, slot)
    _reseed()
    runtime.configure()
    _hot.attach(memfd, slot, epoch, config.current().spin_us, node_pidfd)
    settling.begin()
    gc.enable()
    try:
        Worker(_hot.hold(commands, "mailbox")).obey()
    except (_hot.NodeGoneError, NodeDiedError):
        pass  # whoever waits for this worker is told by others
    timeline.finish()
    atexit._run_exitfuncs()
    _hot.detach()
    sys.exit(0)


def _reseed() -> None:
    """All workers are copies of one process: each needs random numbers of its own."""
    if "random" in sys.modules:
        import random

        random.seed()
    if "numpy.random" in sys.modules:
        import numpy.random

        numpy.random.seed()


class Worker:
    """This process as the node's subordinate."""

    def __init__(self, commands: _hot.Hold) -> None:
        self._commands = commands
        self._functions = Functions(self._wear_out)
        self._devices = Devices()
        self._runtime: runtime.Runtime | None = None
        self._lacks: RuntimeEnvSetupError | None = None  # why it cannot have its environment
        self._runner: asyncio.Runner | None = None
        self._async_tasks: AsyncExecutor | None = None  # while some run
        self._worn_out = False  # has run as many calls of a function as one process may

    def obey(self) -> None:
        """Does one order after another until one says exit."""
        while self._next_order():
            pass
        if self._runner is not None:
            self._runner.close()

    def _next_order(self) -> bool:
        if not _hot.node_alive():  # its call to wake up may have come before this worker slept
            return False
        call = _hot.take(self._commands, IDLE_S, False)
        if call is None:
            self._rest()
            return True
        data, references = call.raw()
        call.complete_raw(b"")
        order = msgpack.unpackb(data)
        do = order["do"]
        if do == "exit":
            return False
        session = self._join_job(order["job"], order["environment"])
        gpus = self._devices.show(order.get("gpus", ()))
        group = order.get("group")
        given = assignment.Assignment(
            in_ones(order["resources"]), gpus, group=tuple(group) if group else None
        )
        if given.group != assignment.current().group:
            session.rebind()
        if do == "serve":
            assignment.take(given._replace(name_of=self._functions.name_of))
            self._serve(session, references[0])
            return True
        host(session, references[0], order["actor"], given, self._lacks)
        return False

    def _join_job(self, job: Mapping[str, Any], environment: str) -> runtime.Runtime:
        """Takes over what the job's driver can import, and the environment of its calls, with the first order."""
        if self._runtime is None:
            if not job["log_to_driver"]:
                printing.send_nowhere()
            sys.path[:] = job["sys_path"]
            try:
                os.chdir(job["cwd"])
            except OSError:
                pass  # it is gone: the worker stays where the node is
            try:
                environments.apply(environment)
            except RuntimeEnvSetupError as error:
                self._lacks = error
            self._runtime = runtime.begin_worker(job["id"], job.get("namespace", ""), environment)
        return self._runtime

    def _rest(self) -> None:
        """Nothing has come for a while: lets go of what nobody needs."""
        self._functions.forget_stale()
        interrupts.collect_leftovers()

    # -- tasks

    def _serve(self, session: runtime.Runtime, queue: _hot.Hold) -> None:
        """Runs tasks until the node wants this worker back, and says so."""
        _hot.join(queue)
        try:
            SyncExecutor(
                queue,
                self._body_of,
                lambda call, body: self._run_async(queue, call, body),
                self._rest,
            ).serve()
        finally:
            _hot.leave(queue)
        session.tell("left", worn_out=self._worn_out)

    def _wear_out(self) -> None:
        """The call that is about to run is the last one that this process takes."""
        self._worn_out = True
        _hot.leave_soon()
        if self._async_tasks is not None:
            self._async_tasks.take_no_more()

    def _body_of(self, call: _hot.Call) -> Body:
        """What the call runs; where this worker is not what it is to run in, the error that says why."""
        if self._lacks is not None:
            raise self._lacks.with_traceback(None)
        return self._functions.of(call)

    def _run_async(self, queue: _hot.Hold, call: _hot.Call, body: Body) -> None:
        """An async task, and those that come while one runs, on this worker's one loop."""
        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

        async def serve() -> None:
            self._async_tasks = AsyncExecutor(queue, self._body_of, (TASKS_AT_ONCE,))
            await self._async_tasks.serve_queue(call, body)

        try:
            self._runner.run(serve())
        finally:
            self._async_tasks = None
