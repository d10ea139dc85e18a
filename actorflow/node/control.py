"""What clients ask of the node by calls to its mailbox: read, dispatched by name, answered.

A request is RAW msgpack {"do": name, ...} with the blocks concerned as references; the answer is RAW msgpack with
references, or an error. Requests come from this user's own processes, but are checked as if they did not: what is
malformed is answered with ProtocolError, and the node goes on.
"""

from __future__ import annotations

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
Handler = Callable[["Request"], Answer]


class Request:
    """One control call. `process`: (slot, epoch) of who asks."""

    __slots__ = ("_fields", "process", "references")

    def __init__(self, process: Process, fields: Mapping[str, Any], references: Sequence[_hot.Hold]) -> None:
        self.process = process
        self.references = references
        self._fields = fields

    def field(self, name: str, kind: type[Any], default: Any = None) -> Any:
        """A field's value. ProtocolError: it is missing (without a default) or of another type."""
        value = self._fields.get(name, default)
        if not isinstance(value, kind):
            raise ProtocolError(reason=f"field {name!r} must be of type {kind.__name__}, not {value!r}")
        return value

    def reference(self, index: int, kind: str) -> _hot.Hold:
        """A block that came along. ProtocolError: there is none, or it is of another kind."""
        if index >= len(self.references) or self.references[index].kind != kind:
            raise ProtocolError(reason=f"reference {index} must be a {kind}")
        return self.references[index]


class Refused(Exception):
    """Raised by a handler to answer with ERROR bytes that it has already."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


class Control:
    """Serves the node's mailbox. A handler returns an answer at once; what takes time is told by a call later."""

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
            try:
                answer, references = self._answer(call)
                call.complete_raw(msgpack.packb(answer), references)
            except _hot.FencedError:
                continue
            except Refused as refusal:
                call.fail(refusal.data)
            except ActorflowError as error:
                call.fail(self._encode(error))
            except Exception as error:
                warn(f"a control call failed inside the node:\n{traceback.format_exc()}")
                call.fail(self._encode(InternalError(reason=f"{type(error).__name__}: {error}")))

    def _answer(self, call: _hot.Call) -> Answer:
        data, references = call.raw()
        try:
            fields = msgpack.unpackb(data)
            handler = self._handlers[fields["do"]]
        except (ValueError, TypeError, KeyError, msgpack.exceptions.UnpackException) as error:
            raise ProtocolError(reason=f"not a request to a node: {error!r}") from None
        return handler(Request(call.caller, fields, references))
