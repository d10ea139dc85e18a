"""The tensors that stay with the process that made them, and the thread that gives them to who asks.

Theory: a kept tensor belongs to a value in shared memory, which owns a small cell made for it, its token. While the
token is held anywhere, somebody may still ask. Nobody tells when it has gone: the thread looks, a few times a second
while anything is kept, and so does every keeping, so that a method that is called again and again keeps no more than
what is referred to. Requests come to a mailbox of the thread's own: they are answered while the actor's methods run,
and two actors that take each other's tensors do not wait for each other.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from actorflow import _hot, errors
from actorflow.client import calls, runtime
from actorflow.client.waiting import current_port
from actorflow.collective import groups
from actorflow.collective.communicator import Communicator, Pending
from actorflow.collective.errors import CollectiveError
from actorflow.wire import failures

LOOK_S = 0.05
SWEPT_AT_ONCE = 64
KEPT_TAG = (
    1 << 30
)  # from here on tags are those of kept tensors; NCCL, where each costs memory, uses this one
TAGS = 1 << 29

_log = logging.getLogger("actorflow")
Name = tuple[int, int]


class Request(NamedTuple):
    """What is asked of a shelf. `memberships`: (identity, rank) of the asker in each of its groups; `tag`: for this
    transfer; `must_be_direct`: the way through the object store will not do."""

    token: Name
    memberships: tuple[tuple[str, int], ...]
    tag: int
    must_be_direct: bool


class Answer(NamedTuple):
    """How the tensors come: from rank `rank` of the group `identity` under a tag, or (no identity) they are here."""

    identity: str
    rank: int
    tag: int
    tensors: tuple[Any, ...] = ()


class Entry(NamedTuple):
    """Tensors of one value. `transport`: how they are to travel."""

    tensors: list[Any]
    transport: str


class Transfer(NamedTuple):
    """Tensors that are to be sent to rank `rank` of a group."""

    communicator: Communicator
    rank: int
    tag: int
    tensors: Sequence[Any]


class Shelf:
    """The kept tensors of this process."""

    def __init__(self) -> None:
        session = runtime.require()
        self.mailbox = _hot.make_mailbox(0, session.job_id, session.lane_credit)
        self._node_id = session.node_id
        self._entries: dict[Name, Entry] = {}
        self._lock = threading.Lock()
        self._is_looking = False
        self._empty = threading.Event()
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, name="actorflow-tensors", daemon=True).start()
        self._started.wait()

    # -- for the threads of methods

    def keep(self, tensors: list[Any], transport: str) -> Any:
        """Keeps tensors while the reference that it returns is held anywhere."""
        token = calls.again_with_room(lambda: _hot.put(None))
        with self._lock:
            self._drop_unheld(SWEPT_AT_ONCE)
            self._entries[token.name] = Entry(tensors, transport)
            self._empty.clear()
            if not self._is_looking:
                self._is_looking = True
                self._loop.call_soon_threadsafe(self._look)
        return token

    def find(self, token: Name) -> Entry | None:
        """What is kept for a token; None: nothing here."""
        return self._entries.get(token)

    def count(self) -> int:
        """For how many values tensors are kept."""
        return len(self._entries)

    def wait_empty(self) -> None:
        """Returns when nothing is kept any more, or the node has ended."""
        while self._entries and _hot.node_alive():
            self._empty.wait(LOOK_S)

    # -- in the thread

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._listen)
        self._loop.run_forever()

    def _listen(self) -> None:
        current_port().listen(self.mailbox, self._take)
        self._started.set()

    def _take(self) -> None:
        while (call := _hot.take_nowait(self.mailbox)) is not None:
            transfer = self._answer(call)
            del call  # what it refers to is freed before a wait for the asker
            if transfer is not None:
                _send(*transfer)
        if not _hot.node_alive():
            self._loop.stop()

    def _answer(self, call: _hot.Call) -> Transfer | None:
        """Answers a request; what is to be sent then."""
        try:
            (request,), _ = call.arguments()
            answer, transfer = self._decide(request)
            calls.again_with_room(lambda: call.complete(answer))
        except _hot.FencedError:
            os._exit(1)  # this process was declared dead: nothing that it does counts any more
        except BaseException as error:
            self._refuse(call, error)
            return None
        return transfer

    def _refuse(self, call: _hot.Call, error: BaseException) -> None:
        data = failures.encode_error(
            error, name="kept tensors", node_id=self._node_id, pid=os.getpid(), attempt=1
        )
        calls.again_with_room(lambda: call.fail(data))

    def _decide(self, request: Request) -> tuple[Answer, Transfer | None]:
        entry = self._entries.get(request.token)
        if entry is None:
            raise errors.InternalError(reason="tensors that somebody has a reference to were freed")
        member = _common(request, entry)
        if member is not None:
            communicator, asker = member.communicator, dict(request.memberships)[member.identity]
            tag = KEPT_TAG if communicator.transport == "nccl" else request.tag
            answer = Answer(member.identity, communicator.rank, tag)
            return answer, Transfer(communicator, asker, tag, entry.tensors)
        if request.must_be_direct and entry.transport not in ("auto", "shm"):
            raise CollectiveError(
                group="",
                reason=f"the tensor cannot come by {entry.transport}: the actor that keeps it and the one that takes "
                "it have no group of that backend in common; make one with create_collective_group, or use "
                "tensor_transport='auto'",
            )
        return Answer("", 0, 0, tuple(tensor.detach().cpu() for tensor in entry.tensors)), None

    def _look(self) -> None:
        with self._lock:
            self._drop_unheld(len(self._entries))
            self._is_looking = bool(self._entries)
        if self._is_looking:
            self._loop.call_later(LOOK_S, self._look)

    def _drop_unheld(self, most: int) -> None:
        """Frees what nobody can ask for any more, among the `most` oldest entries."""
        for token in list(itertools.islice(self._entries, most)):
            if not _is_held(token):
                del self._entries[token]
        if not self._entries:
            self._empty.set()


def _send(communicator: Communicator, rank: int, tag: int, tensors: Sequence[Any]) -> None:
    try:
        pending: list[Pending] = [communicator.isend(tensor, rank, tag) for tensor in tensors]
        for sending in pending:
            sending.wait()
    except Exception:  # the asker, whose error it is, sees it too
        _log.debug("kept tensors could not be sent to rank %d", rank, exc_info=True)


def _common(request: Request, entry: Entry) -> groups.Member | None:
    """The group by which the tensors can go. "auto": NCCL's for what is on a GPU; else shared memory is faster."""
    known = dict(request.memberships)
    transport = entry.transport
    if transport == "auto":
        if not all(tensor.is_cuda for tensor in entry.tensors):
            return None
        transport = "nccl"
    for member in groups.members():
        if member.identity in known and member.communicator.transport == transport:
            return member
    return None


def _is_held(token: Name) -> bool:
    try:
        _hot.hold(token, "cell")
    except (_hot.StaleError, ValueError):
        return False
    return True


def request_tag() -> int:
    """A tag for one transfer, which is no other's of this process for a long time."""
    return KEPT_TAG + 1 + next(_tags) % TAGS


_tags = itertools.count()
_shelf: Shelf | None = None
_making = threading.Lock()


def own() -> Shelf:
    """This process' shelf, made at first use."""
    global _shelf
    if _shelf is None:
        with _making:
            if _shelf is None:
                _shelf = Shelf()
    return _shelf


def current() -> Shelf | None:
    """This process' shelf, if it has kept anything."""
    return _shelf


def _forget() -> None:
    """In a forked child: the shelf and its thread are its parent's, which is asked like any other process."""
    global _shelf, _making
    _shelf, _making = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
