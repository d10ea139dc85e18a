"""Who may attach: decides from a peer's first message and from what the kernel says about the peer.

All clients of a node share its memory, so they must be of one user, and their processes must be
visible to each other: the node watches them by pidfd.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from actorflow.errors import AuthenticationError, ProtocolError
from actorflow.wire.messages import WIRE_VERSION, ForeignHello, Hello, Message, Refuse, Welcome

_UCRED = struct.Struct("3i")


@dataclass(frozen=True)
class Credentials:
    """A socket's peer as the kernel knows it (SO_PEERCRED; unix(7)). pid 0: not visible from here."""

    pid: int
    uid: int
    gid: int

    SIZE_BYTES = _UCRED.size

    @classmethod
    def from_bytes(cls, data: bytes) -> Credentials:
        """From the value of the socket option SO_PEERCRED."""
        return cls(*_UCRED.unpack(data))


def refusal(first: Message, peer: Credentials, own_uid: int) -> Refuse | None:
    """Why the peer that said `first` may not attach to a node of user `own_uid`; None if it may."""
    if peer.uid != own_uid:
        return Refuse(
            "uid", f"this node is user {own_uid}'s, and you are user {peer.uid}: start one of your own"
        )
    if isinstance(first, ForeignHello):
        text = f"you speak wire version {first.version}, this node {WIRE_VERSION}: use the same actorflow for both"
        return Refuse("version", text)
    if not isinstance(first, Hello):
        return Refuse("order", f"the first message must be Hello, not {type(first).__name__}")
    if first.uid != peer.uid:
        return Refuse("uid", f"Hello says user {first.uid}, the kernel says {peer.uid}")
    if first.pid != peer.pid:
        text = f"Hello says process {first.pid}, the kernel says {peer.pid}: run both in one PID namespace"
        return Refuse("pid", text)
    return None


def welcomed(reply: Message, peer: Credentials, own_uid: int) -> Welcome:
    """The node's Welcome, if that is what it replied and the node may be trusted.

    Raises AuthenticationError where one side does not trust the other, ProtocolError where versions
    differ or the reply is out of order, ConnectionError where the node is willing but unable.
    """
    if peer.uid != own_uid:
        raise AuthenticationError(peer=f"the node (user {peer.uid})", reason=f"you are user {own_uid}")
    if isinstance(reply, Welcome):
        return reply
    if not isinstance(reply, Refuse):
        raise ProtocolError(reason=f"the node replied to Hello with {type(reply).__name__}")
    if reply.reason in ("uid", "pid"):
        raise AuthenticationError(peer="this process", reason=reply.text)
    if reply.reason in ("version", "order"):
        raise ProtocolError(reason=f"the node refused: {reply.text}")
    raise ConnectionError(f"the node refused ({reply.reason}): {reply.text}")
