"""af.cancel: a call that has not started never will; one that runs is interrupted, by the node, where it runs."""

from __future__ import annotations

import functools
import os
from collections import OrderedDict
from typing import Any

from actorflow import _hot
from actorflow.client import blocking, calls, objects, runtime
from actorflow.client.generators import ObjectRefGenerator, call_of
from actorflow.client.handles import name_of_method
from actorflow.client.refs import ObjectRef
from actorflow.client.remote_function import OnTerms, RemoteFunction, Terms
from actorflow.errors import TaskCancelledError
from actorflow.wire import failures

KEPT_NAMES = 512
BEFORE, RUNNING = "before it ran", "while it was running"

_names: OrderedDict[tuple[int, int], str] = OrderedDict()  # of functions, by their exports' names


def cancel(
    ref: ObjectRef[object] | ObjectRefGenerator[object], *, force: bool = False, recursive: bool = True
) -> None:
    """Has a call end; its ref, and the other refs of that call, then raise TaskCancelledError.

    A call that waits in a queue, or for its arguments, never runs. In one that runs, KeyboardInterrupt is raised in the
    user's code (sync tasks and methods of sync actors, time.sleep and af.get included), or its asyncio task is
    cancelled (async tasks and methods, at their next await). Code that catches that may clean up, and may return a
    value, which then is the result. A call that has finished keeps its result, and cancelling it does nothing. Returns
    at once: a call that runs may go on for a moment.

    Threads cannot be interrupted: a call that runs in a threaded actor (max_concurrency > 1) goes on. Code in C that
    looks for no signals is interrupted when it returns to Python, and otherwise by `force` alone.

    `force`: the worker process of a task that runs is killed, and the task is not tried again; async tasks that run in
    the same worker die too, as in a crash. ValueError for a call to an actor: use af.kill. `recursive`: the unfinished
    calls made within the call are cancelled as well, and those made within them. A generator that is cancelled gives
    what it has yielded, then the error. TypeError: neither an ObjectRef nor an ObjectRefGenerator.
    """
    if isinstance(ref, ObjectRefGenerator):
        ref = call_of(ref)
    if not isinstance(ref, ObjectRef):
        raise TypeError(f"cancel() takes an ObjectRef, not {ref!r}")
    objects.check_switch("force", force)
    objects.check_switch("recursive", recursive)
    session = runtime.require_for("this reference")
    call = _hot.call_of(ref)
    if call is None:
        return
    kind, function, mailbox, method = _hot.subject(call)
    if force and kind == "actor":
        raise ValueError(
            "force=True is for tasks: to end an actor with all that it runs, use af.kill(handle)"
        )
    if not kind or call.is_done():
        return
    name = _name_of(kind, function, mailbox, method)
    wish, who = _hot.CANCEL_CHILDREN if recursive else 0, (session.node_id, os.getpid())
    outcome, *_ = _wished(call, wish, encoded(name, BEFORE, *who))
    if outcome == _hot.CANCEL_STARTED:
        session.tell(
            "cancel",
            [call],
            wish=wish,
            force=force,
            error=encoded(name, RUNNING, *who),
            child_error=encoded(f"a call made within {name}", RUNNING, *who),
        )


@functools.lru_cache(maxsize=KEPT_NAMES)
def encoded(name: str, when: str, node_id: str, pid: int) -> bytes:
    """The error of a call that was cancelled by process `pid`, as ERROR bytes."""
    error = TaskCancelledError(task_name=name, when=when)
    return failures.encode_error(error, name=name, node_id=node_id, pid=pid, attempt=1)


def _wished(call: _hot.Reference, wish: int, error: bytes) -> tuple[int, int, int, bool]:
    try:
        return _hot.cancel(call, wish, error)
    except _hot.FullError:
        wished: tuple[int, int, int, bool] = calls.again_with_room(lambda: _hot.cancel(call, wish, error))
        return wished


def name_of_call(reference: _hot.Reference) -> str:
    """What errors call the call of a reference."""
    call = _hot.call_of(reference)
    return _name_of(*_hot.subject(call)) if call is not None else "a call that is done"


def _name_of(kind: str, function: _hot.Reference | None, mailbox: int, method: int) -> str:
    return name_of_method(mailbox, method) if kind == "actor" else _name_of_function(function)


def _name_of_function(function: _hot.Reference | None) -> str:
    """A task's name in errors: that of its function, if that can be had here."""
    if function is None:
        return "task"
    name = _names.get(function.name)
    if name is None:
        try:
            found = function.result()
        except Exception:  # it is of a module that is not importable here
            return "task"
        name = _shown(found)
        _names[function.name] = name
        if len(_names) > KEPT_NAMES:
            _names.popitem(last=False)
    return name


def _shown(exported: Any) -> str:
    """What errors call an exported function."""
    terms = Terms()
    if isinstance(exported, OnTerms):
        exported, terms = exported
    return terms.name or calls.short_name(
        exported.function if isinstance(exported, RemoteFunction) else exported
    )


runtime.at_end(_names.clear)
blocking.name_calls(name_of_call)
