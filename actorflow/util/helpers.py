"""Loops over results in the order in which they are done, for code without `async`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from actorflow.client import objects
from actorflow.client.refs import ObjectRef
from actorflow.client.remote_function import RemoteFunction

CHUNK_SIZE = 10
BACKPRESSURE_SIZE = 100


def as_completed(
    refs: Iterable[ObjectRef[Any]], *, chunk_size: int = CHUNK_SIZE, yield_obj_refs: bool = False
) -> Iterator[Any]:
    """The values of refs (or the refs, with `yield_obj_refs`), those first that are done first.

    They come once `chunk_size` more are done; 1 gives each at once. Raises a call's error at its place, and
    ValueError for a chunk_size below 1.
    """
    _check_whole("chunk_size", chunk_size)
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size} must be at least 1")
    return _as_completed(list(refs), chunk_size, yield_obj_refs)


def map_unordered(
    fn: RemoteFunction,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = BACKPRESSURE_SIZE,
    chunk_size: int = CHUNK_SIZE,
    yield_obj_refs: bool = False,
) -> Iterator[Any]:
    """The results of `fn` for all items, those first that are done first.

    At most `backpressure_size` calls are on their way at once; None: no limit. ValueError where chunk_size is below
    1 or above it; TypeError.
    """
    limit = backpressure_size
    _check_whole("chunk_size", chunk_size)
    if limit is not None:
        _check_whole("backpressure_size", limit)
    if not callable(getattr(fn, "remote", None)):
        raise TypeError(f"map_unordered() takes a remote function or a method of a handle, not {fn!r}")
    if chunk_size < 1 or (limit is not None and limit < chunk_size):
        raise ValueError(
            f"chunk_size={chunk_size} must be from 1 to backpressure_size={'no limit' if limit is None else limit}"
        )
    return _map_unordered(fn, iter(items), limit, chunk_size, yield_obj_refs)


def _check_whole(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")


def _as_completed(refs: list[Any], chunk_size: int, yield_obj_refs: bool) -> Iterator[Any]:
    while refs:
        ready, refs = objects.wait(refs, num_returns=min(chunk_size, len(refs)))
        yield from ready if yield_obj_refs else map(objects.get, ready)


def _map_unordered(
    fn: RemoteFunction, items: Iterator[Any], limit: int | None, chunk_size: int, yield_obj_refs: bool
) -> Iterator[Any]:
    refs = [fn.remote(item) for item in itertools.islice(items, limit)]
    while refs:
        ready, refs = objects.wait(refs, num_returns=min(chunk_size, len(refs)))
        refs += [fn.remote(item) for item in itertools.islice(items, len(ready))]
        yield from ready if yield_obj_refs else map(objects.get, ready)
