"""Every error that the runtime raises: what happened, to what, and what to do next.

An error is a template and its data: the annotated names of a class are what its instances are made
with (by keyword), carry as attributes and pickle with. Ids are hexadecimal text. Users' exceptions
arrive as `TaskError`s that are of their own type too.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import inspect
import pickle
import signal as signals
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, dataclass_transform

from actorflow.exception_parts import own_state, rebuild, safe_text, type_name


@dataclass_transform(kw_only_default=True)
class ActorflowError(Exception):
    """Base of all errors of the runtime. `_template` is formatted with the error as `e`."""

    _template: ClassVar[str] = ""
    _names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        own = (
            name
            for name, kind in inspect.get_annotations(cls).items()
            if not str(kind).startswith("ClassVar")
        )
        cls._names = (*cls._names, *own)

    def __init__(self, **data: Any) -> None:
        unknown = data.keys() - set(self._names)
        missing = [name for name in self._names if name not in data and not hasattr(type(self), name)]
        if unknown or missing:
            raise TypeError(f"{type(self).__name__}: unknown {sorted(unknown)}, missing {missing}")
        vars(self).update(data)
        super().__init__(self._template.format(e=self))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self), self.args, vars(self))


class DeathKind(enum.Enum):
    """The ways to die: (what happened, what to do next)."""

    EXITED = ("its process exited", "user code ended the process: look for sys.exit or os._exit in it")
    SIGNALLED = (
        "its process was killed",
        "see what it printed last for a crash in native code, and who sends signals",
    )
    OUT_OF_MEMORY = ("it was killed for lack of memory", "run fewer at once, or give it memory=...")
    INIT_RAISED = ("its constructor raised", "the cause has the traceback")
    KILLED = ("it was killed on request", "make a new one if it is still needed")
    EXIT_REQUESTED = ("it ended itself with exit_actor", "make a new one if it is still needed")
    NO_HANDLES = ("its last handle was dropped", "keep a handle, or use lifetime='detached'")
    JOB_ENDED = ("its job ended", "use lifetime='detached' for what should outlive its job")
    NODE_DIED = ("its node died", "see the node's log; allow restarts to move it elsewhere")
    RESTARTED = (
        "its process ended, and it was restarted",
        "compile again what was compiled for the one before",
    )
    STOPPED = ("it was stopped while it held up others", "do not SIGSTOP workers for longer than a moment")


@dataclass(frozen=True)
class MemoryFacts:
    """A node whose memory was short: bytes used, how many there may be, and what one process had."""

    used_bytes: int
    limit_bytes: int
    process_bytes: int

    def __str__(self) -> str:
        used = f"{self.used_bytes:,} of {self.limit_bytes:,} bytes were used"
        return f"{used}, {self.process_bytes:,} of them by this process"


@dataclass(frozen=True)
class Death:
    """How a process or an actor ended. `detail` says by whom, how much memory, or what was raised."""

    kind: DeathKind
    pid: int | None = None
    node_id: str = ""
    exit_code: int | None = None
    signal: int | None = None
    detail: str = ""
    memory: MemoryFacts | None = None  # of one that was killed for lack of memory

    def __str__(self) -> str:
        text = self.kind.value[0]
        if self.exit_code is not None:
            text += f" with exit code {self.exit_code}"
        if self.signal is not None:
            text += f" by signal {self.signal} ({_signal_name(self.signal)})"
        if self.detail:
            text += f": {self.detail}"
        where = [f"pid {self.pid}"] if self.pid is not None else []
        where += [f"node {self.node_id}"] if self.node_id else []
        return f"{text} ({', '.join(where)})" if where else text

    @property
    def advice(self) -> str:
        """What to do next."""
        return self.kind.value[1]


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return "unknown"


@dataclass(frozen=True)
class RemoteFailure:
    """A user's exception as plain data: what is left of it when nothing else can be carried over."""

    cause_type: str
    cause_text: str
    remote_traceback: str  # the user's frames only
    task_name: str
    node_id: str
    pid: int
    attempt: int  # the first is 1


class TaskError(ActorflowError):
    """A user's exception, raised in a task or in a method of an actor.

    Where that can be done it is of the exception's own type as well, with its args and attributes.
    `cause` is the exception itself, or None if it could not be carried over; `cause_type`,
    `cause_text` and `remote_traceback` are there in any case. Where a task failed because another
    one did, `cause` is that one's, and the end of `remote_traceback` is the way that it took.
    """

    cause: BaseException | None
    cause_type: str
    cause_text: str
    remote_traceback: str
    task_name: str
    node_id: str
    pid: int
    attempt: int
    wire_form: tuple[Callable[..., BaseException], tuple[Any, ...]] | None = None

    @staticmethod
    def wrap(
        cause: BaseException, remote_traceback: str, name: str, node_id: str, pid: int, attempt: int
    ) -> TaskError:
        """The TaskError for `cause`, raised by the task or method `name`."""
        kind, text = type_name(type(cause)), safe_text(cause)
        return TaskError.of(RemoteFailure(kind, text, remote_traceback, name, node_id, pid, attempt), cause)

    @staticmethod
    def of(failure: RemoteFailure, cause: BaseException | None) -> TaskError:
        """The TaskError for a failure: of the type of `cause` too, unless no such type can be made."""
        if cause is not None:
            with contextlib.suppress(Exception):  # whatever the user's class or metaclass objects to
                kind: Any = type(cause)
                return TaskError._filled(_dual_type(kind), failure, cause, cause.args, own_state(cause))
        return TaskError._filled(TaskError, failure, cause, (), {})

    @staticmethod
    def _filled(
        kind: type[TaskError],
        failure: RemoteFailure,
        cause: BaseException | None,
        args: tuple[Any, ...],
        state: Mapping[str, Any],
    ) -> TaskError:
        error: TaskError = rebuild(kind, args, state)
        for name, value in {**vars(failure), "cause": cause, "wire_form": None}.items():
            object.__setattr__(error, name, value)
        return error

    def __str__(self) -> str:
        first_line = self.cause_text.partition("\n")[0]
        summary = f"{self.cause_type}: {first_line}" if first_line else self.cause_type
        text = (
            f"{self.task_name!r} raised {summary} "
            f"(node {self.node_id}, pid {self.pid}, attempt {self.attempt})"
        )
        if self.cause is None:
            text += "\nIt is here as text only: make its class importable and its attributes picklable."
        return f"{text}\n\n{self.remote_traceback}" if self.remote_traceback else text

    def __reduce__(self) -> tuple[Any, ...]:
        if self.wire_form is not None:
            return self.wire_form
        failure = RemoteFailure(**{name: getattr(self, name) for name in RemoteFailure.__annotations__})
        return TaskError.of, (failure, self.cause)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()


# Raised from a wait, one of these would be taken for an order to the interpreter or to asyncio and
# be lost: as the end of an iteration, or as the cancelling of the task that waits.
_CONTROL_FLOW = (StopIteration, StopAsyncIteration, GeneratorExit, asyncio.CancelledError)


@functools.lru_cache(maxsize=512)
def _dual_type(kind: Any) -> type[TaskError]:
    """The class that is both TaskError and `kind`. TypeError where there can be none."""
    if issubclass(kind, TaskError):
        dual: type[TaskError] = kind
        return dual
    if issubclass(kind, _CONTROL_FLOW):
        raise TypeError(f"{kind.__name__} is control flow")
    names = {"__module__": "actorflow", "__doc__": kind.__doc__}
    return types.new_class(
        f"TaskError({kind.__qualname__})", (TaskError, kind), {}, lambda body: body.update(names)
    )


class TaskCancelledError(ActorflowError):
    """The call was cancelled with af.cancel. `when`: "before it ran" or "while it was running"."""

    _template = (
        "{e.task_name!r} was cancelled {e.when}: its result will never come; call again if it is needed"
    )
    task_name: str
    when: str


class TaskTimeoutError(TaskCancelledError, TimeoutError):
    """One attempt of a task ran for longer than its option timeout_s allows, and was cancelled."""

    _template = (
        "{e.task_name!r} was cancelled {e.when}: it had run for longer than timeout_s={e.limit_s:g}; allow more "
        "time, or give it less to do"
    )
    limit_s: float


class WorkerCrashedError(ActorflowError):
    """The process that ran a task died, and the task may not be tried again."""

    _template = (
        "the worker of {e.task_name!r} died in attempt {e.attempt}: {e.death}; {e.death.advice}, "
        "or allow more attempts with max_retries"
    )
    task_name: str
    death: Death
    attempt: int


class ActorError(ActorflowError):
    """Base of what can be wrong with an actor. `actor_name` is its class, with its name if it has one."""

    actor_name: str
    actor_id: str


class ActorDiedError(ActorError):
    """The actor is dead and will not come back. `cause`: what its constructor raised, if it did."""

    _template = "actor {e.actor_name} ({e.actor_id}) is dead: {e.death}; {e.death.advice}{e.cause_text}"
    death: Death
    cause: BaseException | None = None

    @property
    def cause_text(self) -> str:
        """The cause as it is shown, or nothing."""
        return "" if self.cause is None else f"\n\n{safe_text(self.cause)}"


class ActorUnavailableError(ActorError):
    """The actor died while it ran this call, and restarts. How far the call came is unknown."""

    _template = (
        "actor {e.actor_name} ({e.actor_id}) died while it ran {e.task_name!r}: {e.death}; it restarts: "
        "call again if running twice does no harm, or set max_task_retries"
    )
    task_name: str
    death: Death


class ActorUnschedulableError(ActorError):
    """No node can ever have what the actor asks for."""

    _template = (
        "actor {e.actor_name} ({e.actor_id}) cannot be placed: {e.reason}; "
        "ask for less, or add a node that has it"
    )
    reason: str


class TaskUnschedulableError(ActorflowError):
    """No node can ever run what the task's options ask for."""

    _template = "the task cannot be placed: {e.reason}; change its options, or add a node that is right"
    reason: str


class ActorAlreadyExistsError(ActorflowError, ValueError):
    """The name is taken in its namespace."""

    _template = (
        "an actor named {e.actor_name!r} exists in namespace {e.namespace!r}: get it with af.get_actor "
        "or get_if_exists=True, or choose another name"
    )
    actor_name: str
    namespace: str


class ObjectLostError(ActorflowError):
    """The bytes of an object are gone."""

    _template = "object {e.object_id} is lost: {e.reason}; {e.advice}"
    advice: ClassVar[str] = (
        "make it again; results of tasks are rebuilt while retries are left, put values cannot be"
    )
    object_id: str
    reason: str


class ObjectFreedError(ObjectLostError):
    """The object was freed on purpose while a ref to it was left."""

    advice = "free only what nobody reads any more"


class OwnerDiedError(ObjectLostError):
    """The process that was to make the call died before it had sent it."""

    advice = "call again from a process that lives"


class ReconstructionFailedError(ObjectLostError):
    """The task that made the object could not be run again."""

    advice = "make it again, or raise max_retries of the task that made it"


class DeserializationError(ActorflowError, pickle.UnpicklingError):
    """A value is there, and cannot be unpickled in this process: `__cause__` says why. Elsewhere it may be."""

    _template = (
        "a value cannot be unpickled in process {e.pid}: {e.reason}; what it is made of must be importable and "
        "alike where it is made and where it is used"
    )
    pid: int
    reason: str


class ObjectStoreFullError(ActorflowError):
    """There is no room for an object, and none can be made."""

    _template = (
        "{e.size_bytes:,} bytes do not fit into the object store, where {e.used_bytes:,} of "
        "{e.capacity_bytes:,} are in use: drop refs that are not needed, or give af.init more memory for it"
    )
    size_bytes: int
    used_bytes: int
    capacity_bytes: int


class OutOfMemoryError(ActorflowError):
    """The call's process was killed because its node ran out of memory."""

    _template = (
        "{e.task_name!r} was killed: node {e.node_id} used {e.used_bytes:,} of {e.limit_bytes:,} bytes, its "
        "worker {e.process_bytes:,}; ask for memory=... so that fewer run at once, or give it less data"
    )
    task_name: str
    node_id: str
    used_bytes: int
    limit_bytes: int
    process_bytes: int


class OutOfDiskError(ActorflowError):
    """There is no disk left to spill objects to."""

    _template = (
        "cannot spill objects to {e.path}: {e.free_bytes:,} bytes are free; free some, or spill elsewhere"
    )
    path: str
    free_bytes: int


class NodeDiedError(ActorflowError):
    """The node is gone, with all that ran or lay on it."""

    _template = "node {e.node_id} died: {e.reason}; call af.shutdown, then af.init to start or join another"
    node_id: str
    reason: str


class GetTimeoutError(ActorflowError, TimeoutError):
    """What was waited for did not come in time. The calls go on."""

    _template = (
        "{e.pending} of {e.total} results did not come within {e.timeout_s:g} s: the calls go on; "
        "wait longer, or af.cancel them"
    )
    timeout_s: float
    pending: int
    total: int


class PendingCallsLimitExceeded(ActorflowError):
    """Too many calls to one actor have no result yet. (The name is Ray's.)"""

    _template = "{e.limit:,} calls to {e.target} are pending already: wait for some of them, or raise max_pending_calls"
    target: str
    limit: int


class RuntimeEnvSetupError(ActorflowError):
    """The runtime environment of a call could not be made."""

    _template = "runtime_env {e.runtime_env} could not be set up: {e.reason}; mend it, then call again"
    runtime_env: str
    reason: str


class PlacementGroupError(ActorflowError):
    """A placement group cannot be made, or is gone."""

    _template = (
        "placement group {e.group_id}: {e.reason}; see af.util.placement_group_table for what is there"
    )
    group_id: str
    reason: str


class ChannelError(ActorflowError):
    """A channel of a compiled graph is closed or broken, or a result was lost. `channel`: what it is an edge of."""

    _template = "{e.channel}: {e.reason}; {e.advice}"
    channel: str
    reason: str
    advice: str = "compile the graph again"


class ChannelTimeoutError(ChannelError, TimeoutError):
    """A channel was full or empty for too long. The graph stays usable."""

    advice: str = "the graph goes on: try again"


class GraphCapacityError(ActorflowError):
    """More executions of a compiled graph were started than it holds."""

    _template = "{e.limit} {e.what}: get some results first, or raise {e.option}"
    limit: int
    what: str = "executions are in flight"
    option: str = "max_inflight_executions"


class AuthenticationError(ActorflowError):
    """A peer did not prove that it belongs here."""

    _template = "{e.peer} was refused: {e.reason}; run both as the same user, with the same token"
    peer: str
    reason: str


class ProtocolError(ActorflowError):
    """The rules of a connection were broken, or its versions do not match."""

    _template = "{e.reason}; close the connection, and use the same actorflow at both ends"
    reason: str


class DeadlockError(ActorflowError):
    """The answer can only come from the loop or the process that waits for it."""

    _template = (
        "waiting for {e.waiting_for} here would never end: {e.reason}; use an async method and await it, or pass the "
        "ref on instead of waiting"
    )
    waiting_for: str
    reason: str


class InternalError(ActorflowError):
    """A mistake of the runtime itself."""

    _template = (
        "{e.reason}; this is a mistake in actorflow, please report it with this text and its traceback"
    )
    reason: str
