"""The segment as the node sees it: slots, mailbox settings, settling, audit. One process plays node and client."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from actorflow import _hot
from actorflow.shm.store import NodeState, Role, SlotState, Store, StoreError

MIB = 1 << 20


@pytest.fixture
def store() -> Iterator[Store]:
    _hot.create(b"n" * 16, 64, 64 * MIB, MIB, 16 * MIB, 0)
    yield Store(_hot.client_address())
    _hot.detach()


def test_without_a_segment() -> None:
    with pytest.raises(ValueError, match="not attached"):
        Store(0)


def test_segment(store: Store) -> None:
    facts = store.segment()
    assert facts.node_id == b"n" * 16
    assert facts.version == _hot.VERSION
    assert facts.node_pid == os.getpid()
    assert facts.slot_count == 64
    assert facts.object_bytes == 16 * MIB
    assert facts.size_bytes > 80 * MIB
    assert facts.state is NodeState.STARTING
    _hot.publish_node_mailbox(_hot.make_mailbox(0, 0, 16))
    assert store.segment().state is NodeState.RUNNING
    _hot.stop_node()
    assert store.segment().state is NodeState.STOPPING


def test_slots(store: Store) -> None:
    own = store.slot(0)
    assert (own.state, own.role, own.pid) == (SlotState.LIVE, Role.NODE, os.getpid())
    slot, epoch = store.reserve(Role.WORKER, 7)
    facts = store.slot(slot)
    assert (facts.state, facts.role, facts.job, facts.epoch) == (SlotState.RESERVED, Role.WORKER, 7, epoch)
    assert not store.is_live(slot, epoch)
    assert [found.number for found in store.slots(Role.WORKER)] == [slot]
    assert not store.ask_to_leave(slot, epoch), "nobody is there yet"
    store.unreserve(slot, epoch)
    assert store.slot(slot).state is SlotState.FREE
    assert list(store.slots(Role.WORKER)) == []


def test_slots_run_out(store: Store) -> None:
    for _ in range(63):
        store.reserve(Role.WORKER, 0)
    with pytest.raises(StoreError, match="no room left"):
        store.reserve(Role.WORKER, 0)


def test_a_slot_that_is_not_there(store: Store) -> None:
    with pytest.raises(StoreError, match="slot 64"):
        store.slot(64)


def test_mailbox_settings(store: Store) -> None:
    mailbox = _hot.make_mailbox(_hot.SHARED, 1, 16)
    assert store.allow(mailbox.name, 3) == 3
    target = _hot.Target(mailbox)
    references = [target.call_raw(b"work") for _ in range(2)]
    facts = store.facts(mailbox.name)
    assert (facts.depth, facts.allowed, facts.active, facts.readers) == (2, 3, 0, 0)
    assert not facts.closed
    store.rouse(mailbox.name)
    assert not any(reference.is_done() for reference in references)


def test_more_bytes_than_a_message_has_are_refused(store: Store) -> None:
    mailbox = _hot.make_mailbox(_hot.ORDERED, 1, 16)
    target = _hot.Target(mailbox)
    reference = target.call_raw(b"work")
    call = _hot.take_nowait(mailbox)
    assert call is not None
    for size_bytes in (200_000, (1 << 32) + 8):
        too_many = bytes(size_bytes)  # nothing but addresses until it is read
        with pytest.raises(_hot.StoreFullError):
            target.call_raw(too_many)
        with pytest.raises(_hot.StoreFullError):
            call.complete_raw(too_many)
    call.complete_raw(b"done")
    assert reference.raw()[1] == b"done"
    del call, reference
    audit = store.audit()
    assert audit.clean, audit


def test_closing_a_mailbox_settles_what_is_in_it(store: Store) -> None:
    mailbox = _hot.make_mailbox(_hot.ORDERED, 1, 16)
    target = _hot.Target(mailbox)
    references = [target.call_raw(b"work") for _ in range(3)]
    assert store.close(mailbox.name, b"the reason")
    for reference in references:
        assert reference.raw() == (_hot.ERROR, b"the reason", [])
    assert store.facts(mailbox.name).closed
    with pytest.raises(_hot.ClosedError):
        target.call_raw(b"late")
    audit = store.audit()
    assert audit.clean, audit


def test_a_constructor_that_never_ran_is_settled_too(store: Store) -> None:
    mailbox = _hot.make_mailbox(_hot.ORDERED, 1, 16)
    constructor = _hot.Target(mailbox).submit_first(0, (), None)
    assert store.close(mailbox.name, b"the reason")
    assert constructor.raw() == (_hot.ERROR, b"the reason", [])


def test_a_name_of_the_past_is_refused(store: Store) -> None:
    mailbox = _hot.make_mailbox(0, 1, 16)
    name = mailbox.name
    del mailbox
    with pytest.raises(StoreError, match=r"gone|not a valid block"):
        store.facts(name)
    with pytest.raises(StoreError, match=r"gone|not a valid block"):
        store.close((name[0] + 8, name[1]), b"")


def test_settling_a_process_that_never_came(store: Store) -> None:
    slot, epoch = store.reserve(Role.FORK, 1)
    settlement = store.settle(slot, epoch, b"gone")
    assert settlement is not None
    assert settlement.calls_failed == 0
    assert store.slot(slot).state is SlotState.FREE
    assert store.slot(slot).epoch == epoch + 1
    with pytest.raises(StoreError, match="gone"):
        store.settle(slot, epoch, b"gone")


def test_without_memory_the_dead_and_the_closed_wait_until_there_is_some(store: Store) -> None:
    slot, epoch = store.reserve(Role.FORK, 1)
    taken = []
    with contextlib.suppress(_hot.FullError):
        while True:
            taken.append(_hot.make_mailbox(0, 1, 16))
    error = bytes(20_000)
    assert store.settle(slot, epoch, error) is None
    assert not store.fail(slot, epoch, 0, error)
    mailbox = taken[0]
    assert not store.close(mailbox.name, error)
    assert not store.facts(mailbox.name).closed
    taken.clear()
    assert store.close(mailbox.name, error)
    assert store.settle(slot, epoch, error) is not None


def test_books_are_in_order(store: Store) -> None:
    kept = [_hot.put(bytes(200_000)), _hot.put({"a": 1})]
    audit = store.audit()
    assert audit.clean, audit
    assert audit.object_bytes >= 200_000
    assert store.segment().object_bytes_used >= 200_000
    assert store.overdue(0.0) is None
    del kept
    store.trim(0)
    assert store.audit().clean
    assert store.segment().object_bytes_used == 0
