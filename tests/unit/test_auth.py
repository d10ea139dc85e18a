"""Who may attach to a node, and which node is trusted."""

from __future__ import annotations

import os
import socket

import pytest

from actorflow import errors
from actorflow.wire.auth import Credentials, refusal, welcomed
from actorflow.wire.messages import (
    WIRE_VERSION,
    ForeignHello,
    Hello,
    Message,
    Refuse,
    Role,
    Shutdown,
    Welcome,
)

PEER = Credentials(pid=42, uid=1000, gid=1000)
HELLO = Hello(WIRE_VERSION, uid=1000, pid=42, role=Role.DRIVER)
WELCOME = Welcome("ab12", 7, 1, 1, 1, 4096)


def test_the_kernels_word_about_a_peer_is_read() -> None:
    one, other = socket.socketpair()
    with one, other:
        data = one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, Credentials.SIZE_BYTES)
    assert Credentials.from_bytes(data) == Credentials(os.getpid(), os.getuid(), os.getgid())


def test_a_process_of_the_same_user_and_version_may_attach() -> None:
    assert refusal(HELLO, PEER, 1000) is None


@pytest.mark.parametrize(
    ("first", "own_uid", "reason", "words"),
    [
        (HELLO, 0, "uid", "this node is user 0's, and you are user 1000"),
        (
            ForeignHello(WIRE_VERSION + 1),
            1000,
            "version",
            f"version {WIRE_VERSION + 1}, this node {WIRE_VERSION}",
        ),
        (ForeignHello(WIRE_VERSION + 1), 0, "uid", "user 0"),
        (Shutdown("x"), 1000, "order", "must be Hello, not Shutdown"),
        (Hello(WIRE_VERSION, 0, 42, Role.DRIVER), 1000, "uid", "Hello says user 0, the kernel says 1000"),
        (Hello(WIRE_VERSION, 1000, 1, Role.TOOL), 1000, "pid", "PID namespace"),
    ],
)
def test_all_others_are_refused_with_the_reason(
    first: Message, own_uid: int, reason: str, words: str
) -> None:
    refuse = refusal(first, PEER, own_uid)
    assert refuse is not None
    assert refuse.reason == reason
    assert words in refuse.text


def test_a_welcome_from_a_node_of_the_same_user_is_taken() -> None:
    assert welcomed(WELCOME, PEER, 1000) is WELCOME


@pytest.mark.parametrize(
    ("reply", "own_uid", "kind", "words"),
    [
        (WELCOME, 0, errors.AuthenticationError, "user 1000"),
        (Refuse("uid", "you are user 1"), 1000, errors.AuthenticationError, "you are user 1"),
        (Refuse("version", "you speak 2, I speak 1"), 1000, errors.ProtocolError, "you speak 2, I speak 1"),
        (Refuse("slots", "all 8 are taken"), 1000, ConnectionError, "all 8 are taken"),
        (Shutdown("x"), 1000, errors.ProtocolError, "replied to Hello with Shutdown"),
    ],
)
def test_every_other_reply_is_an_error_that_says_why(
    reply: Message, own_uid: int, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        welcomed(reply, PEER, own_uid)
