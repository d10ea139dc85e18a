"""The runtime of this process: starting a private node or attaching to one, and ending everything again.

States: none -> running -> none. There is one runtime at a time; whatever was made in it (refs, handles, bound
functions) belongs to it and says so when it is used afterwards. A worker's runtime begins and ends with the
worker; a forked child of user code goes on with its parent's runtime, under a slot of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import enum
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol

import cloudpickle
import msgpack

from actorflow import _hot, config, errors
from actorflow.client import blocking, futures, waiting
from actorflow.client.connection import Connection
from actorflow.client.refs import ObjectRef
from actorflow.options import LOCAL, InitOptions
from actorflow.runtime_env import environment as environments
from actorflow.shm.process import process_state
from actorflow.wire import failures, pickling

_log = logging.getLogger("actorflow")
SILENCE_S = 5.0  # of who should answer in a moment, after which a process that waits for it looks into that


class Role(enum.Enum):
    """What this process is to its node."""

    DRIVER = "driver"
    WORKER = "worker"
    FORK = "forked child"


class Bound(Protocol):
    """Something that keeps parts of a runtime for speed and gives them back at its end."""

    def unbind(self) -> None: ...


class Runtime:
    """The connection of this process to its node. Made by `af.init`; also a context manager, and awaitable.

    `with af.init():`, `async with af.init():` end it with the block; `await af.init()` gives it as it is.
    """

    def __init__(
        self,
        role: Role,
        job_id: int,
        namespace: str = "",
        address: str = "",
        connection: Connection | None = None,
        environment: str = "",
    ) -> None:
        self.role = role
        self.job_id = job_id
        self.namespace = namespace
        self.address = address
        self.environment = (
            environment  # of calls that name none: the job's, or that of the call that makes them
        )
        self.node_id = _hot.identity()[0].hex()
        self.lane_credit = config.current().lane_credit
        self._connection = connection
        self._node = _hot.Target(_hot.node_mailbox())
        self._queues: dict[Any, _hot.Target] = {}
        # By id; made at first use: most workers have none.
        self._bound: weakref.WeakValueDictionary[int, Bound] | None = None

    # -- asking the node

    def control(self, do: str, references: Sequence[_hot.Hold] = (), **fields: Any) -> ObjectRef[bytes]:
        """Asks the node for something; the answer is RAW msgpack, or an error."""
        ref: ObjectRef[bytes] = self._node.call_raw(msgpack.packb({"do": do, **fields}), references)
        return ref

    def tell(self, do: str, references: Sequence[_hot.Hold] = (), **fields: Any) -> None:
        """Says something to the node and does not wait for it."""
        self._node.call_raw(msgpack.packb({"do": do, **fields}), references)

    def ask(
        self, do: str, references: Sequence[_hot.Hold] = (), **fields: Any
    ) -> tuple[Any, list[_hot.Hold]]:
        """Asks the node and waits for the answer: what it says, and the blocks that it names."""
        try:
            reply = self.control(do, references, **fields)
            try:
                _hot.get(reply, SILENCE_S)
            except TimeoutError:
                _log.warning("%s has not answered for %g s: %s", self._node_name(), SILENCE_S, do)
                _hot.get(reply)
        except _hot.NodeGoneError:
            raise self.death() from None
        _, data, holds = reply.raw()
        return (msgpack.unpackb(data) if data else None), holds

    def _node_name(self) -> str:
        """What a warning calls the node, with what the kernel says of it."""
        if self._connection is None:
            return "the node"
        pid = self._connection.node_pid
        return f"the node (pid {pid}, {process_state(pid)})"

    def environment_for(self, own: str) -> str:
        """The environment of a call with `own`. RuntimeEnvSetupError: something of that is missing."""
        if not own:
            return self.environment
        environments.require(own)
        return environments.merged(self.environment, own)

    def queue(
        self,
        shape: tuple[tuple[str, int], ...],
        is_async: bool,
        environment: str,
        where: tuple[tuple[str, Any], ...],
        name: str,
    ) -> _hot.Target:
        """Where tasks of this shape (names and ten-thousandths) and environment go; the node makes it at first use.

        `name`: of the function that asks; where the node lacks what the shape is, a warning names it.

        TaskUnschedulableError, PlacementGroupError: they never can run `where` they are to (core/where.py).
        """
        key = (shape, is_async, environment, where)
        target = self._queues.get(key)
        if target is None:
            why, holds = self.ask("open_queue", **queue_fields(*key))
            target = self._queues.setdefault(key, _hot.Target(holds[0]))
            if why:
                _log.warning("task %r cannot run on this node, and waits: %s", name, why)
        return target

    def forget_queue(self, *key: Any) -> None:
        """The queue of that key (shape, is_async, environment, where) was closed: the next call asks for another."""
        self._queues.pop(key, None)

    def rebind(self) -> None:
        """Where calls go has changed for this process: each function asks again at its next call."""
        for reference in (
            self._bound.valuerefs() if self._bound is not None else ()
        ):  # others may be added meanwhile
            bound = reference()
            if bound is not None:
                bound.unbind()

    # -- the end

    def bind(self, bound: Bound) -> None:
        """Has `bound.unbind()` called when the runtime ends."""
        if self._bound is None:
            self._bound = weakref.WeakValueDictionary()
        self._bound[id(bound)] = bound

    def death(self) -> errors.NodeDiedError:
        """The error for whoever finds the node gone."""
        reason = "its process has ended" if self._connection is None else self._connection.death()
        return errors.NodeDiedError(node_id=self.node_id, reason=reason)

    def shutdown(self) -> None:
        """Ends the runtime as `af.shutdown` does, if it is still the current one."""
        if self._begin_end():
            try:
                self._forget()
            finally:  # also where that was interrupted: else there never could be another runtime
                self._finish_end()

    def _begin_end(self) -> bool:
        """From now on this is not the runtime of this process; False if it was not, or is a worker's."""
        global _current, _ending
        if self.role is Role.WORKER:
            return False
        with _lock:
            if _current is not self:
                return False
            _current, _ending = None, self
        return True

    def _forget(self) -> None:
        """Makes this process forget what is of this runtime, and ends its waits."""
        try:
            self._unbind()
        finally:
            waiting.close_ports(_ended)

    def _unbind(self) -> None:
        self.rebind()
        for forget in _forgetters:
            forget()

    def _finish_end(self) -> None:
        """Lets go of the node, and ends it if it is private."""
        global _ending
        try:
            futures.stop()
            _hot.detach()
            if self._connection is not None:
                self._connection.close()
        finally:
            _ending = None

    def abandon(self) -> None:
        """In a forked child that has no slot: forgets everything, and leaves it to the parent."""
        self._unbind()
        if self._connection is not None:
            self._connection.forget()

    def become_fork(self) -> None:
        """In a forked child that has its own slot: announces itself, and leaves what is the parent's alone."""
        self.role = Role.FORK
        if self._connection is not None:
            self._connection.forget()
            self._connection = None
        _, slot, epoch = _hot.identity()
        self.tell("forked", pid=os.getpid(), slot=slot, epoch=epoch)

    # -- how it is used

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def __await__(self) -> Generator[Any, None, Runtime]:
        yield from ()
        return self

    async def __aenter__(self) -> Runtime:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._begin_end():
            try:
                self._forget()
            finally:
                await asyncio.shield(asyncio.to_thread(self._finish_end))

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value!r}" for name, value in self._facts())
        return f"Runtime({facts})"

    def __rich_repr__(self) -> Iterator[Any]:
        yield from self._facts()

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in self._facts())
        return f"<b>actorflow</b><table>{rows}</table>"

    def _facts(self) -> Iterator[tuple[str, Any]]:
        yield "state", "running" if _current is self else "ended"
        yield "node_id", self.node_id
        yield "role", self.role.value
        if self.address:
            yield "address", self.address
        if self.namespace:
            yield "namespace", self.namespace


def queue_fields(shape: Any, is_async: bool, environment: str, where: Any) -> dict[str, Any]:
    """What the node is asked for a queue with."""
    options = {"is_async": is_async, "environment": environment}
    return {"shape": shape, "options": options, "where": dict(where)}


def at_end(forget: Callable[[], None]) -> None:
    """Has `forget()` called at the end of every runtime: a module's own cache of what belongs to one."""
    _forgetters.append(forget)


_forgetters: list[Callable[[], None]] = []
_SPAWNED_MAIN = "__mp_main__"
_current: Runtime | None = None
_ending: Runtime | None = None  # it was shut down, and has not yet let go of everything
_lock = threading.RLock()
_has_hooks = False


def current() -> Runtime | None:
    """The runtime of this process, if there is one."""
    return _current


def require() -> Runtime:
    """The runtime of this process, started with all defaults if there is none."""
    return _current or _first()


def require_for(what: str) -> Runtime:
    """The runtime of this process, for something that was made in one. RuntimeError: that has been shut down."""
    if _current is None:
        raise RuntimeError(f"{what} belongs to a runtime that was shut down: make it again after init()")
    return _current


def _first() -> Runtime:
    with _lock:  # of several threads that come at once one starts it
        return _current or init()


def ensure() -> None:
    """Starts the runtime of this process, with all defaults, if there is none."""
    require()


def is_initialized() -> bool:
    """Whether this process has a runtime."""
    return _current is not None


def in_worker() -> bool:
    """Whether this process runs calls of others."""
    return _current is not None and _current.role is Role.WORKER


def init(address: str | None = None, *, ignore_reinit_error: bool = False, **given: Any) -> Runtime:
    """Starts the runtime of this process; everything it starts ends with it.

    `address`: "local" starts a private node, as does None where ACTORFLOW_ADDRESS names no other; "auto" attaches to
    the node that `actorflow start` has started on this machine, as does its name. For a private node: num_cpus,
    num_gpus, memory (bytes), resources, labels, object_store_memory (bytes); what is not given is what the
    machine has. `runtime_env`: what calls that name none run in; see RuntimeEnv.
    `namespace`: where names of actors are looked up. `log_to_driver=False` drops workers' output.
    See InitOptions.

    Raises RuntimeError where there is a runtime, unless `ignore_reinit_error`; TypeError and ValueError for wrong
    options, and for resources together with an address; ConnectionError where no node answers. In a worker
    it returns the worker's runtime.
    """
    options = InitOptions(address=address, ignore_reinit_error=ignore_reinit_error, **given)
    with _lock:
        if _current is not None:
            if _current.role is Role.WORKER or ignore_reinit_error:
                return _current
            raise RuntimeError(
                "actorflow.init() was called before in this process: call actorflow.shutdown() first, or give "
                "ignore_reinit_error=True"
            )
        if _ending is not None:
            raise RuntimeError(
                "the runtime of this process is being shut down: call actorflow.init() after that"
            )
        return _begin(_started(options), at_exit=True)


def _started(options: InitOptions) -> Runtime:
    """A runtime on the node that the options mean, or the environment where they name none."""
    environment = environments.normal(options.runtime_env)
    if what := environments.missing(environment):
        raise ValueError(f"af.init option runtime_env: {what}")
    if options.address is None:
        options = options.merged(address=config.read(os.environ).address or LOCAL)
    namespace = options.namespace or f"job-{os.urandom(8).hex()}"
    configure()
    connection = Connection.open(options, namespace)
    try:
        return Runtime(
            Role.DRIVER, connection.job_id, namespace, options.address or "", connection, environment
        )
    except BaseException:
        _hot.detach()
        connection.close()
        raise


def shutdown() -> None:
    """Ends the runtime of this process, and with it a private node and all that it runs. Does nothing without."""
    if _current is not None:
        _current.shutdown()


def begin_worker(job_id: int, namespace: str, environment: str) -> Runtime:
    """The runtime of a worker process, which is attached already; what it calls inherits its environment."""
    return _begin(Runtime(Role.WORKER, job_id, namespace, environment=environment))


def configure() -> None:
    """Tells the C core how values, errors and refs are made in this process."""
    if _SPAWNED_MAIN in sys.modules:  # the main script of a process that multiprocessing has spawned
        cloudpickle.register_pickle_by_value(sys.modules[_SPAWNED_MAIN])
    _hot.configure(
        dumps=pickling.dumps,
        decode_error=failures.decode_error,
        unloadable=failures.unloadable,
        reference=ObjectRef,
        storage_error=failures.storage_error,
    )


def _begin(runtime: Runtime, at_exit: bool = False) -> Runtime:
    global _current, _has_hooks
    _current = runtime
    waiting.open_ports()
    if not _has_hooks:
        _has_hooks = True
        os.register_at_fork(
            before=_hot.fork_prepare, after_in_parent=_hot.fork_parent, after_in_child=_after_fork
        )
        if at_exit:
            atexit.register(shutdown)
    return runtime


def _after_fork() -> None:
    """In the child: its own slot if there was one, else no runtime."""
    global _current, _ending, _lock
    _lock, _ending = threading.RLock(), None
    _hot.fork_child()
    waiting.forget_ports()
    futures.forget()
    runtime = _current
    if runtime is None:
        return
    if _hot.attached():
        runtime.become_fork()
    else:
        _current = None
        runtime.abandon()


def _ended() -> BaseException:
    return RuntimeError("the runtime was shut down while this was waited for")


def _death() -> BaseException:
    return _current.death() if _current is not None else _ended()


blocking.name_death(_death)
waiting.LoopPort.gone_error = staticmethod(_death)
