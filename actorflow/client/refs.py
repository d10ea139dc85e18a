"""ObjectRef: the place of a result that may not be there yet, awaitable in any loop.

A ref is a counted hold on a cell in shared memory: while one exists anywhere, the result stays. It has the
methods of a future that asyncio's functions use, but is not one: cancelling an `await` never cancels the call,
and any number of loops, threads and processes can wait for the same ref.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

from actorflow import _hot
from actorflow.client import blocking, futures, on_disk
from actorflow.client.waiting import current_port
from actorflow.wire import outside

T = TypeVar("T")

_look = _hot.Reference.look
_value = _hot.Reference.result_nowait


class ObjectRef(_hot.Reference, Generic[T]):
    """A reference to a result or a put value, in whatever process it is or will be made.

    Made by `.remote()` calls and by `af.put`. Await it, or give it to `af.get` and `af.wait`; as an argument of
    a call it becomes its value, inside another value it stays a ref. Equal refs name the same result.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, T]:
        is_done = _look(self)
        if is_done is None:
            yield
        elif not is_done:
            yield from current_port().wait(self)
        try:
            return _value(self)  # type: ignore[no-any-return]
        except TimeoutError as error:
            if type(error) is not TimeoutError:  # the call's own
                raise
        return (yield from on_disk.value_of(self))  # type: ignore[no-any-return]

    def done(self) -> bool:
        """Whether the result, or the error, is there."""
        return self.is_done()

    def cancelled(self) -> bool:
        """False: a ref is no asyncio future; a cancelled call has TaskCancelledError as its result."""
        return False

    def result(self, timeout: float | None = None) -> T:
        """The value; waits for it like af.get.

        Raises the call's error, or GetTimeoutError after `timeout` seconds.
        """
        return blocking.get_one(self, timeout)  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The call's error, or None if it has a value; waits like `result`."""
        blocking.wait_one(self, timeout)
        return self.error()

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: contextvars.Context | None = None
    ) -> None:
        """Has the running loop call `callback(ref)` once the result is there. RuntimeError without a loop."""
        if not callable(callback):
            raise TypeError(f"callback must be a function of a ref, not {callback!r}")
        current_port().add_done_callback(self, callback, context)

    def remove_done_callback(self, callback: Callable[[Any], object]) -> int:
        """Takes back what was added in the running loop; returns how many callbacks that were."""
        return current_port().remove_done_callback(self, callback)

    def future(self) -> concurrent.futures.Future[T]:
        """A concurrent.futures.Future of the same result; cancelling it does not cancel the call.

        It is completed by a thread that is started with the first of them.
        """
        return futures.future_of(self)

    def hex(self) -> str:
        """The ref's id on its node, as hexadecimal text."""
        return outside.hex_name(self)

    def __repr__(self) -> str:
        return f"ObjectRef({self.hex()})"

    def __rich_repr__(self) -> Iterator[Any]:
        yield self.hex()
        yield "state", self._state()

    def _repr_html_(self) -> str:
        return f"<code>ObjectRef</code> {self.hex()} <i>{self._state()}</i>"

    def _state(self) -> str:
        try:
            if not self.is_done():
                return "pending"
            return "done" if self.error() is None else "failed"
        except RuntimeError:
            return "of a runtime that was shut down"

    def _reduce_outside(self) -> tuple[Any, ...]:
        return outside.reduce(self)
