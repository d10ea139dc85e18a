"""af.aio: put, get and wait for coroutines, and af.gather and af.as_completed.

All wait in the running loop, without a thread but for values that lie on disk. Cancelling one of them leaves the calls
alone and nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterable
from typing import Any

from actorflow import config, errors
from actorflow.client import objects
from actorflow.client.once import ReadOnce
from actorflow.client.refs import ObjectRef
from actorflow.client.waiting import current_port

LARGE_BYTES = config.MIB  # copying more takes over 100 us, more than the hop to a thread


async def put(value: Any) -> ObjectRef[Any]:
    """As `af.put`; large values are copied in a thread, so that the loop goes on meanwhile."""
    if sys.getsizeof(value, 0) > LARGE_BYTES:
        return await asyncio.to_thread(objects.put, value)
    return objects.put(value)


async def get(
    refs: objects.Gettable | list[ObjectRef[Any]] | list[ReadOnce], *, timeout: float | None = None
) -> Any:
    """As `af.get`."""
    if timeout is not None:
        objects.check_timeout(timeout)
    is_one = isinstance(refs, ObjectRef | ReadOnce)
    many: list[Any] = [refs] if is_one else _checked(refs, ReadOnce)
    values: list[Any] = []
    try:
        async with asyncio.timeout(timeout) as limit:
            for ref in many:
                if timeout == 0 and isinstance(ref, ReadOnce):
                    values.append(ref.get(0))
                    continue
                if timeout == 0 and not ref.is_done():
                    raise _late(many, timeout)
                values.append(await ref)
    except TimeoutError:
        if not limit.expired():  # a call's own
            raise
        waited_for = many[len(values)]
        raise (
            waited_for.late(timeout) if isinstance(waited_for, ReadOnce) else _late(many, timeout)
        ) from None
    return values[0] if is_one else values


async def wait(
    refs: list[Any],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[Any], list[Any]]:
    """As `af.wait`."""
    objects.check_wait(refs, num_returns, timeout, fetch_local)
    objects.check_waitables(refs)
    items = [objects.waited_for(ref) for ref in refs]
    if len(set(items)) != len(items):
        raise ValueError("wait() takes refs that all differ: one is in the list twice")
    pending = [item for item in items if not item.is_done()]
    missing = num_returns - (len(items) - len(pending))
    if pending and missing > 0 and timeout != 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await current_port().wait_some(pending, missing)
    done = [index for index, item in enumerate(items) if item.is_done()][:num_returns]
    chosen = set(done)
    return [refs[index] for index in done], [ref for index, ref in enumerate(refs) if index not in chosen]


async def gather(*refs: ObjectRef[Any], return_exceptions: bool = False) -> list[Any]:
    """The values of refs, in their order; the first error that comes ends the wait and is raised.

    With `return_exceptions` errors are values of the list. As asyncio.gather, without a task for each ref.
    """
    checked = _checked(list(refs))
    pending = [ref for ref in checked if not ref.is_done()]
    if pending:
        stop = None if return_exceptions else _has_failed
        if stop is None or not any(_has_failed(ref) for ref in checked if ref.is_done()):
            await current_port().wait_some(pending, len(pending), stop)
    if return_exceptions:
        return [await _outcome(ref) for ref in checked]
    for ref in checked:
        if ref.is_done() and _has_failed(ref):
            return [await ref]  # raises
    return [await ref for ref in checked]


async def as_completed(
    refs: Iterable[ObjectRef[Any]], *, timeout: float | None = None
) -> AsyncIterator[ObjectRef[Any]]:
    """The refs, each as soon as it is done. GetTimeoutError when not all were after `timeout` seconds."""
    if timeout is not None:
        objects.check_timeout(timeout)
    every = _checked(list(refs))
    done: asyncio.Queue[ObjectRef[Any]] = asyncio.Queue()
    port = current_port()
    deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
    for ref in every:
        port.add_done_callback(ref, done.put_nowait)
    try:
        for _ in every:
            try:
                async with asyncio.timeout_at(deadline):
                    ref = await done.get()
            except TimeoutError:
                raise _late(every, timeout) from None
            yield ref
    finally:
        for ref in every:
            port.remove_done_callback(ref, done.put_nowait)


def _checked(refs: Any, *others: type) -> list[Any]:
    if not isinstance(refs, list):
        raise ValueError(f"get() takes an ObjectRef or a list of them, not {type(refs).__name__}")
    objects.check_items([ref for ref in refs if not isinstance(ref, others)], ValueError)
    return refs


def _late(refs: list[Any], timeout: float | None) -> errors.GetTimeoutError:
    pending = sum(isinstance(ref, ObjectRef) and not ref.is_done() for ref in refs) or 1  # which lies on disk
    return errors.GetTimeoutError(timeout_s=timeout or 0.0, pending=pending, total=len(refs))


def _has_failed(ref: Any) -> bool:
    return bool(ref.error() is not None)


async def _outcome(ref: Any) -> Any:
    error = ref.error()
    return error if error is not None else await ref
