"""What clients ask of the node by calls to its mailbox: read, dispatched by name, answered.

A request is RAW msgpack {"do": name, ...} with the blocks concerned as references; the answer is RAW msgpack with
references, or an error. Requests come from this user's own processes, but are checked as if they did not: what is
malformed is answered with ProtocolError, and the node goes on.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack

from actorflow import _hot
from actorflow.errors import ActorflowError, InternalError, ProtocolError
from actorflow.node.log import warn

CREDIT = 4096  # requests of one client that wait: more than it has threads and actors on the way

Process = tuple[int, int]
Answer = tuple[Any, Sequence[_hot.Hold]]
Handler = Callable[["Request"], Answer | None]


class Request:
    """One control call. `process`: (slot, epoch) of who asks; `has_waited`: it was put off once (NotYet)."""

    __slots__ = ("_call", "_fields", "has_waited", "process", "references")

    def __init__(self, call: _hot.Call, fields: Mapping[str, Any], references: Sequence[_hot.Hold]) -> None:
        self.process: Process = call.caller
        self.references = references
        self.has_waited = False
        self._call = call
        self._fields = fields

    def field(self, name: str, kind: type[Any], default: Any = None) -> Any:
        """A field's value. ProtocolError: it is missing (without a default) or of another type."""
        value = self._fields.get(name, default)
        if not isinstance(value, kind):
            raise ProtocolError(reason=f"field {name!r} must be of type {kind.__name__}, not {value!r}")
        return value

    def answer(self, value: Any, references: Sequence[_hot.Hold] = ()) -> None:
        """Answers. Whoever asked may be gone by now."""
        try:
            self._call.complete_raw(msgpack.packb(value), references)
        except _hot.FencedError:
            pass

    def fail(self, error: bytes) -> None:
        """Answers with an error (ERROR bytes)."""
        try:
            self._call.fail(error)
        except _hot.FencedError:
            pass

    def reference(self, index: int, kind: str) -> _hot.Hold:
        """A block that came along. ProtocolError: there is none, or it is of another kind."""
        if index >= len(self.references) or self.references[index].kind != kind:
            raise ProtocolError(reason=f"reference {index} must be a {kind}")
        return self.references[index]


class NotYet(Exception):
    """Raised by a handler that is to be asked once more, when `tell_when(again)` has `again` called."""

    def __init__(self, tell_when: Callable[[Callable[[], None]], object]) -> None:
        super().__init__("to be asked again")
        self.tell_when = tell_when


class Control:
    """Serves the node's mailbox. A handler returns its answer, or None and gives it later by `Request.answer`."""

    def __init__(self, encode: Callable[[ActorflowError], bytes]) -> None:
        self.mailbox = _hot.make_mailbox(0, 0, CREDIT)
        self._encode = encode
        self._handlers: dict[str, Handler] = {}

    def handle(self, name: str, handler: Handler) -> None:
        """Has `handler` answer what asks for `name`."""
        self._handlers[name] = handler

    def serve(self) -> None:
        """Answers all that is in the mailbox."""
        while (call := _hot.take_nowait(self.mailbox)) is not None:
            data, references = call.raw()
            try:
                fields = msgpack.unpackb(data)
                handler = self._handlers[fields["do"]]
            except (ValueError, TypeError, KeyError, msgpack.exceptions.UnpackException) as error:
                refusal = ProtocolError(reason=f"not a request to a node: {error!r}")
                Request(call, {}, ()).fail(self._encode(refusal))
            else:
                self._handle(handler, Request(call, fields, references))

    def _handle(self, handler: Handler, request: Request) -> None:
        try:
            answer = handler(request)
        except NotYet as pause:
            request.has_waited = True
            pause.tell_when(functools.partial(self._handle, handler, request))
        except ActorflowError as error:
            request.fail(self._encode(error))
        except Exception as error:
            warn(f"a control call failed inside the node:\n{traceback.format_exc()}")
            request.fail(self._encode(InternalError(reason=f"{type(error).__name__}: {error}")))
        else:
            if answer is not None:
                request.answer(*answer)
