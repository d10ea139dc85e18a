"""What else `af.get` takes besides refs: results that can be read once, of whoever makes them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from time import monotonic
from typing import Any, NoReturn

from actorflow.client import blocking
from actorflow.client.refs import ObjectRef


class ReadOnce:
    """A result that is no block of shared memory that anyone could refer to: it is handed out once, here.

    Awaitable, so asyncio takes it wherever it makes a future of an awaitable.
    """

    __slots__ = ()

    def get(self, timeout: float | None = None) -> Any:
        """The value, waiting for it `timeout` seconds at most; raises its error, or `late`."""
        raise NotImplementedError

    def late(self, timeout: float | None) -> BaseException:
        """The error for who has waited for it for so long."""
        raise NotImplementedError

    def __await__(self) -> Generator[Any, None, Any]:
        raise NotImplementedError

    def add_done_callback(self, *_: object, **__: object) -> NoReturn:
        """What asyncio.wait calls, the only function of asyncio that takes futures alone."""
        raise TypeError(
            f"{self!r} can be awaited and is no future: asyncio.wait and callbacks take asyncio.ensure_future(ref)"
        )


def get_all(items: Sequence[Any], timeout: float | None) -> list[Any]:
    """The values of refs and of results that are read once, in their order, within `timeout` seconds in all."""
    deadline = None if timeout is None else monotonic() + timeout
    values = []
    for item in items:
        left = None if deadline is None else max(0.0, deadline - monotonic())
        values.append(blocking.get_one(item, left) if isinstance(item, ObjectRef) else item.get(left))
    return values
