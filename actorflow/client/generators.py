"""ObjectRefGenerator: the items of a generator that runs as a task or method, each a ref as soon as it is yielded.

Items are a chain of cells in shared memory (ext/core/stream.h): the worker completes one after another, and whoever
iterates waits for the next one like for any result, by a spin, a futex or its loop. Neither the node nor a socket
takes part. A generator stays with the process that made the call: its refs can go anywhere.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Generic, NoReturn, TypeVar

from actorflow import _hot
from actorflow.client import blocking
from actorflow.client.refs import ObjectRef
from actorflow.client.waiting import current_port
from actorflow.wire import outside

T = TypeVar("T")


class ObjectRefGenerator(Generic[T]):
    """Iterates, with `for` or `async for`, over refs to the items that a generator elsewhere yields.

    Made by calls with num_returns="streaming", which is the default for generator functions. Each ref is ready when
    it comes. What the generator raises, and the error for a worker that died, is a ref too, the last one.
    Closing it, or dropping it, ends the generator at its next yield, by GeneratorExit.
    """

    __slots__ = ("__weakref__", "_stream", "_take")

    def __init__(self, stream: _hot.Stream) -> None:
        self._stream = stream
        self._take = stream.take

    def __iter__(self) -> ObjectRefGenerator[T]:
        return self

    def __next__(self) -> ObjectRef[T]:
        """Waits for the next item. NodeDiedError; DeadlockError where only this thread could yield it."""
        while (ref := self._take()) is None:
            blocking.wait_item(self._stream)
        return ref  # type: ignore[no-any-return]

    def __aiter__(self) -> ObjectRefGenerator[T]:
        return self

    async def __anext__(self) -> ObjectRef[T]:
        """Awaits the next item. Cancelling the wait leaves the generator as it was."""
        try:
            while (ref := self._take()) is None:
                await _ready(self._stream.item)
        except StopIteration:
            raise StopAsyncIteration from None
        return ref  # type: ignore[no-any-return]

    def completed(self) -> ObjectRef[None]:
        """A ref that is ready once the generator has ended; its value is None, or the error.

        Whoever has asked for it wants the end: from then on the generator runs to it though this object is dropped.
        """
        return self._stream.completed()  # type: ignore[no-any-return]

    def next_ready(self) -> bool:
        """Whether next() would give a ref at once. False at the end too, which `is_finished` tells."""
        return not self._stream.finished and bool(self._stream.item.is_done())

    def is_finished(self) -> bool:
        """Whether the generator has ended and every item was taken: next() would raise StopIteration."""
        return self._stream.finished

    def close(self) -> None:
        """Ends it: next() raises StopIteration, and the generator is closed at its next yield. Returns at once."""
        self._stream.close()

    async def aclose(self) -> None:
        """As `close`."""
        self._stream.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an ObjectRefGenerator stays in the process that made the call: pass the refs that it gives, or call with "
            'num_returns="dynamic" for a ref to all of them'
        )

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({outside.hex_name(self._stream.call)})"


class DynamicObjectRefGenerator(Generic[T]):
    """The refs to all items of a generator: the value of a call with num_returns="dynamic". Has a length."""

    __slots__ = ("_refs",)

    def __init__(self, refs: Iterable[ObjectRef[T]]) -> None:
        self._refs = tuple(refs)

    def __iter__(self) -> Iterator[ObjectRef[T]]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)

    def __reduce__(self) -> tuple[Any, ...]:
        return DynamicObjectRefGenerator, (self._refs,)

    def __repr__(self) -> str:
        return f"DynamicObjectRefGenerator({len(self._refs)} refs)"


def streaming(call: Callable[..., Any]) -> Callable[..., ObjectRefGenerator[Any]]:
    """A target's call whose streams are ObjectRefGenerators."""

    def call_streaming(*arguments: Any) -> ObjectRefGenerator[Any]:
        return ObjectRefGenerator(call(*arguments))

    return call_streaming


def failed(reference: _hot.Reference) -> ObjectRefGenerator[Any]:
    """The generator of a call that was never sent: `reference`, an error or to become one, is all it gives."""
    return ObjectRefGenerator(_hot.Stream(reference, reference))


def next_item(generator: ObjectRefGenerator[T]) -> ObjectRef[T]:
    """A reference that is done once the next item, or the end, is there."""
    return generator._stream.item  # type: ignore[no-any-return]


def call_of(generator: ObjectRefGenerator[Any]) -> ObjectRef[object]:
    """The ref of the call that it reads."""
    return generator._stream.call  # type: ignore[no-any-return]


@types.coroutine
def _ready(reference: _hot.Reference) -> Generator[Any, None, None]:
    yield from current_port().wait(reference)
