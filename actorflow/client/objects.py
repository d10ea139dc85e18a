"""af.put, af.get, af.wait: values in shared memory, and waiting for them without a loop."""

from __future__ import annotations

from typing import Any

from actorflow import _hot
from actorflow.client import blocking, calls, runtime
from actorflow.client.generators import ObjectRefGenerator, next_item
from actorflow.client.once import ReadOnce, get_all
from actorflow.client.refs import ObjectRef

Gettable = ObjectRef[Any] | ReadOnce
Waitable = ObjectRef[Any] | ObjectRefGenerator[Any]


def put(value: Any) -> ObjectRef[Any]:
    """Puts a value where every process of the node can read it, and returns a ref to it.

    Values over 100 KiB lie in the object store; their buffers (numpy arrays) are read there in place.
    Raises TypeError for a ref or for what cannot be pickled (it names the member), ObjectStoreFullError.
    """
    if isinstance(value, ObjectRef):
        raise TypeError("put() of an ObjectRef, which is a ref already: to put the ref itself, put [ref]")
    try:
        return _hot.put(value)  # type: ignore[no-any-return]
    except Exception as error:
        return _put_again(value, error)


def _put_again(value: Any, error: Exception) -> ObjectRef[Any]:
    """The way of a put that failed at first: without a runtime, or without room."""
    if not runtime.is_initialized():
        runtime.ensure()
        return put(value)
    if isinstance(error, _hot.FullError):
        return calls.again_with_room(lambda: _hot.put(value))  # type: ignore[no-any-return]
    calls.raise_translated(error, lambda: [("value", value)])


def get(refs: Gettable | list[ObjectRef[Any]] | list[ReadOnce], *, timeout: float | None = None) -> Any:
    """The value of a ref, or the values of a list of refs in its order; waits until they are there.

    The refs that a compiled graph gives are taken as well, and can be read once.

    Raises the error of the call (of the first in the list's order that failed); GetTimeoutError after
    `timeout` seconds, where 0 looks once; DeadlockError where the answer could only come from this thread;
    NodeDiedError; ValueError for what is not a ref or list of refs. Calls go on, whatever is raised here.
    """
    if isinstance(refs, ObjectRef):
        if timeout is not None:
            check_timeout(timeout)
        return blocking.get_one(refs, timeout)
    if timeout is not None:
        check_timeout(timeout)
    if isinstance(refs, ReadOnce):
        return refs.get(timeout)
    if not isinstance(refs, list):
        raise ValueError(f"get() takes an ObjectRef or a list of them, not {_described(refs)}")
    if not refs:
        return []
    try:
        return blocking.get_many(refs, timeout)
    except TypeError:
        if any(isinstance(ref, ReadOnce) for ref in refs):
            check_items([ref for ref in refs if not isinstance(ref, ReadOnce)], ValueError)
            return get_all(refs, timeout)
        check_items(refs, ValueError)  # the core refuses what is no ref, and cannot say it as well
        raise


def check_items(refs: list[Any], kind: type[Exception]) -> None:
    """Raises `kind`, naming the item, where a list holds something that is not a ref."""
    for index, ref in enumerate(refs):
        if isinstance(ref, ReadOnce):
            raise kind(
                f"item {index} of the list is {ref!r}, which is read once: await it, or give it to get or to "
                "asyncio.gather"
            )
        if not isinstance(ref, ObjectRef):
            raise kind(f"item {index} of the list is {_described(ref)}, not an ObjectRef")


def wait(
    refs: list[Any],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[Any], list[Any]]:
    """(ready, not ready), each in the order of `refs`, once `num_returns` of them are ready.

    A generator among the refs is ready when its next() returns at once, at its end too.
    At most `num_returns` are in the first list. With a `timeout` in seconds there may be fewer; 0 looks once.
    `fetch_local` makes no difference on one node. `[]` gives `([], [])`.
    Raises TypeError where `refs` is no list of refs; ValueError for duplicates, a negative timeout, or
    num_returns out of range; DeadlockError; NodeDiedError.
    """
    check_wait(refs, num_returns, timeout, fetch_local)
    if not refs:
        return [], []
    try:
        return blocking.wait_some(refs, num_returns, timeout)
    except TypeError:
        check_waitables(refs)
    items = [waited_for(ref) for ref in refs]
    given = dict(zip(items, refs, strict=True))
    ready, rest = blocking.wait_some(items, num_returns, timeout)
    return [given[item] for item in ready], [given[item] for item in rest]


def waited_for(ref: Waitable) -> ObjectRef[Any]:
    """The ref itself; of a generator one that is done once it has its next item."""
    return next_item(ref) if isinstance(ref, ObjectRefGenerator) else ref


def check_waitables(refs: list[Any]) -> None:
    """TypeError, naming the item, where a list holds something that is neither ref nor generator."""
    check_items([ref for ref in refs if not isinstance(ref, ObjectRefGenerator)], TypeError)


def check_wait(refs: Any, num_returns: Any, timeout: float | None, fetch_local: Any) -> None:
    """The arguments of wait but for the items of the list, which the core looks at itself."""
    if not isinstance(refs, list):
        raise TypeError(f"wait() takes a list of ObjectRefs, not {_described(refs)}")
    if timeout is not None:
        check_timeout(timeout)
    if not isinstance(num_returns, int) or isinstance(num_returns, bool):
        raise TypeError(f"num_returns must be a whole number, not {_described(num_returns)}")
    if fetch_local is not True:
        check_switch("fetch_local", fetch_local)
    if refs and not 1 <= num_returns <= len(refs):
        check_waitables(refs)
        raise ValueError(f"num_returns={num_returns} must be from 1 to the number of refs, {len(refs)}")


def check_switch(name: str, value: Any) -> None:
    """TypeError where it is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {_described(value)}")


def check_timeout(timeout: Any) -> None:
    """TypeError or ValueError where it is no number of seconds."""
    if not isinstance(timeout, int | float) or isinstance(timeout, bool):
        raise TypeError(f"timeout must be None or a number of seconds, not {_described(timeout)}")
    if not timeout >= 0:
        raise ValueError(f"timeout={timeout} must be a number that is not negative")


def _described(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
