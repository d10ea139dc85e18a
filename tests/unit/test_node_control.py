"""Control calls: what is asked right is answered, what is asked wrong gets an error, and the node goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from actorflow import _hot
from actorflow.errors import ActorflowError, InternalError, ProtocolError
from actorflow.node.control import Answer, Control, NotYet, Request
from actorflow.wire.failures import decode_error, encode_error

MIB = 1 << 20


def encode(error: ActorflowError) -> bytes:
    return encode_error(error, name="node", node_id="n", pid=os.getpid(), attempt=1)


@pytest.fixture
def control() -> Iterator[Control]:
    _hot.create(b"n" * 16, 16, 64 * MIB, MIB, MIB, 0)
    yield Control(encode)
    _hot.detach()


def ask(control: Control, data: bytes, *references: _hot.Hold) -> Any:
    """The answer to a request: its value, or the exception."""
    reply = _hot.Target(control.mailbox).call_raw(data, references)
    control.serve()
    form, answer, holds = reply.raw()
    if form == _hot.ERROR:
        return decode_error(answer)
    return msgpack.unpackb(answer), [hold.kind for hold in holds]


def test_answers(control: Control) -> None:
    def twice(request: Request) -> Answer:
        assert request.process == (0, 1)
        return request.field("number", int) * 2, [request.reference(0, "mailbox")]

    control.handle("twice", twice)
    mailbox = _hot.make_mailbox(0, 0, 16)
    assert ask(control, msgpack.packb({"do": "twice", "number": 21}), mailbox) == (42, ["mailbox"])


def test_an_answer_may_come_later(control: Control) -> None:
    asked: list[Request] = []

    def later(request: Request) -> None:
        asked.append(request)

    control.handle("later", later)
    reply = _hot.Target(control.mailbox).call_raw(msgpack.packb({"do": "later"}))
    control.serve()
    assert not reply.is_done()
    asked[0].answer("now")
    assert msgpack.unpackb(reply.raw()[1]) == "now"


def test_a_request_may_be_put_off_once(control: Control) -> None:
    waiting: list[Callable[[], None]] = []

    def put_off(request: Request) -> Answer:
        if not request.has_waited:
            raise NotYet(waiting.append)
        return "now", ()

    control.handle("put_off", put_off)
    reply = _hot.Target(control.mailbox).call_raw(msgpack.packb({"do": "put_off"}))
    control.serve()
    assert not reply.is_done()
    waiting.pop()()
    assert msgpack.unpackb(reply.raw()[1]) == "now"
    assert not waiting


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb([1, 2]),
        msgpack.packb({"ask": "nicely"}),
        msgpack.packb({"do": "what nobody knows"}),
        msgpack.packb({"do": [1]}),
        msgpack.packb(7),
    ],
)
def test_garbage_is_answered_with_an_error(control: Control, data: bytes) -> None:
    error = ask(control, data)
    assert isinstance(error, ProtocolError)
    assert "not a request" in error.reason


def test_wrong_fields_and_references_are_named(control: Control) -> None:
    control.handle("number", lambda request: (request.field("number", int), ()))
    control.handle("actor", lambda request: (None, [request.reference(0, "actor")]))
    assert "'number' must be of type int" in str(ask(control, msgpack.packb({"do": "number"})))
    assert "'number' must be of type int" in str(ask(control, msgpack.packb({"do": "number", "number": "5"})))
    mailbox = _hot.make_mailbox(0, 0, 16)
    assert "reference 0 must be a actor" in str(ask(control, msgpack.packb({"do": "actor"})))
    assert "reference 0 must be a actor" in str(ask(control, msgpack.packb({"do": "actor"}), mailbox))


def test_errors_of_handlers(control: Control, capfd: pytest.CaptureFixture[str]) -> None:
    def refuse(_: Request) -> Answer:
        raise ProtocolError(reason="on purpose")

    def fail(_: Request) -> Answer:
        raise ZeroDivisionError("a bug")

    for handler in (refuse, fail):
        control.handle(handler.__name__, handler)
    refused = ask(control, msgpack.packb({"do": "refuse"}))
    assert isinstance(refused, ProtocolError)
    assert refused.reason == "on purpose"
    assert capfd.readouterr().err == ""
    failed = ask(control, msgpack.packb({"do": "fail"}))
    assert isinstance(failed, InternalError)
    assert "ZeroDivisionError: a bug" in str(failed)
    assert "ZeroDivisionError" in capfd.readouterr().err
