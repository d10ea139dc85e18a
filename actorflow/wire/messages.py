"""What node and clients say to each other on sockets: frozen records <-> plain data.

Only what cannot go through shared memory is said here: to attach, to end, what workers print. A record is sent
as a list: the number of its kind, then its fields. Both ends check every field.

Two layouts never change, so that versions can refuse each other by name: that of Hello begins with
the version, and that of Refuse is (reason, text).
"""

from __future__ import annotations

import enum
import typing
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from actorflow.records import frozen

WIRE_VERSION = 1  # of these records and their framing; another version is refused

_LARGEST_INT = 2**63 - 1


class Role(enum.Enum):
    """What a process that attaches is."""

    DRIVER = "driver"
    WORKER = "worker"
    TOOL = "tool"


@frozen
class Message:
    """Base of all records."""


@frozen
class Hello(Message):
    """Client to node, first of all: who wants to attach. The kernel tells uid and pid as well."""

    version: int
    uid: int
    pid: int
    role: Role


@frozen
class ForeignHello(Message):
    """A Hello of another version, of which only the version can be read. It is never sent."""

    version: int


@frozen
class JobStart(Message):
    """Driver to node, after Hello: what its workers need in order to import what it imports."""

    namespace: str
    sys_path: tuple[str, ...]
    cwd: str
    driver: str  # the script, for logs
    log_to_driver: bool  # whether it wants what its workers print


@frozen
class Welcome(Message):
    """Node to client: the slot that is reserved for it. The segment's memfd comes along."""

    node_id: str  # hexadecimal
    node_pid: int
    slot: int
    epoch: int
    job: int
    segment_bytes: int


@frozen
class Refuse(Message):
    """Node to client: it may not attach. `reason` is one word for programs, `text` is for people."""

    reason: str
    text: str


@frozen
class Shutdown(Message):
    """Either way: the last message before an orderly end, and why it ends."""

    reason: str


@frozen
class Output(Message):
    """Node to driver: whole lines that one of its workers has printed."""

    pid: int
    title: str  # of the call or actor that printed them; "" for none
    is_error: bool  # standard error, else standard output
    text: bytes


@frozen
class OutputLost(Message):
    """Node to driver: so many lines were left out at this point, because it did not keep up."""

    lines: int


# Numbered from 1; only append.
_KINDS: tuple[type[Message], ...] = (Hello, JobStart, Welcome, Refuse, Shutdown, Output, OutputLost)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS, 1)}


def to_plain(message: Message) -> list[Any]:
    """A record as what msgpack can write. ValueError, naming the field, for what may not be sent."""
    kind = type(message)
    if kind not in _NUMBERS:
        raise ValueError(f"{kind.__name__} is not a message that is sent")
    values = (_checked(kind, name, check, getattr(message, name)) for name, check in _CHECKS[kind].items())
    return [_NUMBERS[kind], *(value.value if isinstance(value, enum.Enum) else value for value in values)]


def from_plain(plain: Any) -> Message:
    """The record that was sent as `plain`. ValueError, naming what is wrong, for anything else."""
    if not isinstance(plain, list) or not plain or type(plain[0]) is not int:
        raise ValueError("not a message: a list that begins with the number of its kind")
    number, *values = plain
    if not 1 <= number <= len(_KINDS):
        raise ValueError(f"no kind of message has number {number}")
    kind = _KINDS[number - 1]
    if kind is Hello and values and values[0] != WIRE_VERSION:
        return ForeignHello(_whole_number(values[0]))
    checks = _CHECKS[kind]
    if len(values) != len(checks):
        raise ValueError(f"{kind.__name__} has {len(checks)} fields, not {len(values)}")
    checked = [_checked(kind, name, checks[name], value) for name, value in zip(checks, values, strict=True)]
    message: Message = kind(*checked)
    return message


def _checked(kind: type[Message], name: str, check: Callable[[Any], Any], value: Any) -> Any:
    try:
        return check(value)
    except ValueError as problem:
        raise ValueError(f"{kind.__name__}.{name} {problem}") from None


def _whole_number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST_INT:
        raise ValueError("is not a whole number from 0 to 2**63 - 1")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is not text")
    return value


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is not true or false")
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("is not bytes")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("is not a list of texts")
    return tuple(_text(item) for item in value)


def _role(value: Any) -> Role:
    try:
        return Role(value)
    except (ValueError, TypeError):
        raise ValueError(f"is not one of {', '.join(role.value for role in Role)}") from None


_BY_TYPE: dict[Any, Callable[[Any], Any]] = {
    int: _whole_number,
    str: _text,
    bool: _switch,
    bytes: _bytes,
    tuple[str, ...]: _texts,
    Role: _role,
}


def _checks_of(kind: type[Message]) -> dict[str, Callable[[Any], Any]]:
    types = typing.get_type_hints(kind)
    return {field.name: _BY_TYPE[types[field.name]] for field in fields(kind)}


_CHECKS = {kind: _checks_of(kind) for kind in _KINDS}
