"""The segment as the node and the tools see it: slots, mailbox settings, settling of the dead, audit.

Everything works on the client of `actorflow._hot` in the same process, given by its address. cffi releases the GIL
during each call, so a process that uses this must not use its client from another thread meanwhile; the node has one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from actorflow.shm._store import ffi, lib

Name = tuple[int, int]
"""A block's name: (offset, generation)."""

_KIND_MAILBOX = 4
_FORMAT_ERROR = 3
_AUDIT_TRIES = 20
_DOOMED_AT_ONCE = 64
_FULL = -2
_BUSY = -12

_STATUS = {
    -1: "nothing there",
    -2: "no room left",
    -3: "closed",
    -4: "gone",
    -5: "not a valid block",
    -8: "node is gone",
    -9: "system error",
}


class StoreError(Exception):
    """The core refused a call of the node: what was tried, and the core's answer."""


class NoRoomError(StoreError):
    """There is none for what was tried: it may succeed once others have let go of something."""


class SlotState(enum.IntEnum):
    FREE = 0
    RESERVED = 1
    LIVE = 2
    DEAD = 3


class Role(enum.IntEnum):
    """What the process of a slot is."""

    NODE = 0
    DRIVER = 1
    WORKER = 2
    FORK = 3


class NodeState(enum.IntEnum):
    """In the segment's header; every wait of a client ends once it is STOPPING or DEAD."""

    STARTING = 0
    RUNNING = 1
    STOPPING = 2
    DEAD = 3


class SlotFacts(NamedTuple):
    """What a slot says of its process. `running` (a call) and `serving` are block offsets, 0: none; `stepping`: it is
    in a step of a compiled graph."""

    number: int
    epoch: int
    state: SlotState
    pid: int
    role: Role
    job: int
    parent: int | None
    blocked: bool
    running: int
    serving: int
    stepping: bool


class MailboxFacts(NamedTuple):
    """What waits in a mailbox and who reads it, as of now."""

    depth: int
    allowed: int
    active: int
    readers: int
    blocked: int
    sleepers: int
    closed: bool
    abandoned: bool


class Settlement(NamedTuple):
    """What a dead process had left."""

    calls_failed: int
    calls_retried: int
    holds_dropped: int
    lanes_orphaned: int
    inside_operation: bool
    repaired: int
    recount_owed: bool


class Doomed(NamedTuple):
    """A call that dies with its process. `function`: the name of its function's cell, (0, 0): it has none."""

    call: int
    function: Name
    attempt: int
    method: int


class Audit(NamedTuple):
    """A recount of every hold and block. `wrong` counts what the books have otherwise."""

    blocks: int
    bytes: int
    object_bytes: int
    too_high: int
    too_low: int
    lost: int
    broken: int
    repaired: int
    consistent: bool

    @property
    def clean(self) -> bool:
        """Whether the books agreed, at one instant."""
        return self.consistent and not (self.too_high or self.too_low or self.lost or self.broken)


class HeldBlock(NamedTuple):
    """An entry of a hold table: a counted reference to a block, whose kind is as in ext/core/af.h."""

    name: Name
    kind: int


class LargeValue(NamedTuple):
    """A value in the object store, or that was; sizes in bytes.

    `cell`: what refs hold, None for the arguments of a call; `block`: what views hold, 0 while it is only on disk;
    `references`: how often the cell is counted; `process`: slot and epoch of who made it; `code`: the function's cell
    or the actor's mailbox whose code that was, None where a driver's own was; `method`: which of the actor's.
    """

    cell: Name | None
    block: int
    bytes: int
    in_memory: bool
    on_disk: bool
    references: int
    process: tuple[int, int]
    was_put: bool
    code: Name | None
    method: int


class SegmentFacts(NamedTuple):
    """The segment's size and use, in bytes."""

    node_id: bytes
    version: int
    node_pid: int
    state: NodeState
    slot_count: int
    span_count: int
    spans_used: int
    audits: int
    size_bytes: int
    object_bytes: int
    object_bytes_used: int


class Store:
    """The segment of the `_hot` client at `address` (`_hot.client_address()`)."""

    def __init__(self, address: int) -> None:
        if not address:
            raise ValueError("this process is not attached to a node")
        self._client = ffi.cast("struct af_client *", address)

    # -- slots

    def reserve(self, role: Role, job: int) -> tuple[int, int]:
        """Reserves a slot for a process that is to come: (slot, epoch). StoreError when all are taken."""
        index, epoch = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        _check(lib.af_slot_reserve(self._client, role, job, index, epoch), "reserving a client slot")
        return index[0], epoch[0]

    def unreserve(self, slot: int, epoch: int) -> None:
        """Gives back a slot that was reserved and never claimed, with what a fork copied there."""
        lib.af_slot_unreserve(self._client, slot, epoch)

    def slot(self, index: int) -> SlotFacts:
        """What slot `index` says of its process. StoreError: there is no such slot."""
        facts = ffi.new("struct af_store_slot *")
        _check(lib.af_store_slot_read(self._client, index, facts), f"reading slot {index}")
        return SlotFacts(
            number=index,
            epoch=facts.epoch,
            state=SlotState(facts.state),
            pid=facts.pid,
            role=Role(facts.role),
            job=facts.job,
            parent=facts.parent - 1 if facts.parent else None,
            blocked=bool(facts.blocked),
            running=facts.running,
            serving=facts.serving,
            stepping=bool(facts.stepping),
        )

    def has_retries(self, call: int) -> bool:
        """Whether the call, which a slot says to be running, is run again if its process dies."""
        return bool(lib.af_store_has_retries(self._client, call))

    def is_live(self, index: int, epoch: int) -> bool:
        """Whether a process has taken (slot, epoch) and not left it."""
        facts = self.slot(index)
        return facts.epoch == epoch and facts.state is SlotState.LIVE

    def slots(self, role: Role) -> Iterator[SlotFacts]:
        """Every slot of a role that is not free, in order."""
        index = lib.af_store_slot_next(self._client, 0, role)
        while index >= 0:
            yield self.slot(index)
            index = lib.af_store_slot_next(self._client, index + 1, role)

    def holds(self, slot: int) -> list[HeldBlock]:
        """What the process of a slot holds, as of now; a block as often as it is held."""
        most = 256
        while True:
            found = ffi.new(f"struct af_ledger_hold[{most}]")
            count = lib.af_ledger_holds(self._client, slot, found, most)
            if count <= most:
                return [HeldBlock((hold.block, hold.generation), hold.kind) for hold in found[0:count]]
            most = 2 * count

    def values(self) -> list[LargeValue]:
        """All values of the object store, in memory or on disk, as of now."""
        most = 256
        while True:
            found = ffi.new(f"struct af_ledger_value[{most}]")
            count = lib.af_ledger_values(self._client, found, most)
            if count <= most:
                return [_value_of(value) for value in found[0:count]]
            most = 2 * count

    def ask_to_leave(self, slot: int, epoch: int, *, leave: bool = True) -> bool:
        """Asks the process to leave its task queue after this task, or takes that back. False: it is gone."""
        return bool(lib.af_store_slot_ask_leave(self._client, slot, epoch, leave) == 0)

    # -- mailboxes

    def facts(self, mailbox: Name) -> MailboxFacts:
        """What waits in the mailbox and who reads it. StoreError: it is gone."""
        facts = ffi.new("struct af_mailbox_facts *")
        lib.af_mailbox_facts(self._client, self._mailbox(mailbox), facts)
        return MailboxFacts(
            depth=facts.depth,
            allowed=facts.allowed,
            active=facts.active,
            readers=facts.readers,
            blocked=facts.blocked,
            sleepers=facts.sleepers,
            closed=bool(facts.closed),
            abandoned=bool(facts.abandoned),
        )

    def allow(self, mailbox: Name, allowed: int) -> int:
        """Sets how many tasks of a shared mailbox may run at once; no lower than run now. Returns what is set."""
        return int(lib.af_mailbox_allow(self._client, self._mailbox(mailbox), allowed))

    def rouse(self, mailbox: Name) -> None:
        """Wakes every sleeping reader, so that each looks whether it shall leave."""
        lib.af_mailbox_rouse(self._client, self._mailbox(mailbox))

    def close(self, mailbox: Name, error: bytes, named: Sequence[Name] = ()) -> bool:
        """Ends a mailbox: no more pushes, and each call that waits in it gets `error` (ERROR bytes).

        `named`: blocks that this process holds and the error names, which owns them from now on.

        False: a reader is just taking a call, or there is no memory for `error`; to be tried again. A mailbox of one
        reader: that must have ended.
        """
        offset = self._mailbox(mailbox)
        try:
            with _Error(self._client, error, named) as block:
                status = lib.af_mailbox_close(self._client, offset, block, _FORMAT_ERROR)
        except NoRoomError:
            return False
        return _check(status, f"closing mailbox {offset:#x}") != _BUSY

    def _mailbox(self, name: Name) -> int:
        offset, generation = name
        found = lib.af_block_find(self._client, offset, generation, _KIND_MAILBOX)
        _check(found, f"looking for mailbox {offset:#x}.{generation}")
        return offset

    # -- the dead

    def settle(self, slot: int, epoch: int, error: bytes, *, retry: bool = True) -> Settlement | None:
        """Settles what the ended process of a slot left; calls it had started get `error` (ERROR bytes).

        `retry`: those that have retries left are to be run again instead.
        None: there was not enough memory for it; to be tried again.
        """
        settlement = ffi.new("struct af_settlement *")
        try:
            with _Error(self._client, error) as block:
                status = lib.af_coroner_settle(
                    self._client, slot, epoch, retry, block, _FORMAT_ERROR, settlement
                )
        except NoRoomError:
            return None
        if _check(status, f"settling slot {slot}, epoch {epoch}") == _BUSY:
            return None
        return Settlement(
            calls_failed=settlement.calls_failed,
            calls_retried=settlement.calls_retried,
            holds_dropped=settlement.holds_dropped,
            lanes_orphaned=settlement.lanes_orphaned,
            inside_operation=bool(settlement.inside_operation),
            repaired=settlement.repaired,
            recount_owed=bool(settlement.recount_owed),
        )

    def doomed(self, slot: int, epoch: int) -> list[Doomed]:
        """The calls that an ended process had started and that will not be run again, some of them at a time."""
        found = ffi.new(f"struct af_store_doomed[{_DOOMED_AT_ONCE}]")
        count = lib.af_store_doomed_read(self._client, slot, epoch, True, found, _DOOMED_AT_ONCE)
        return [
            Doomed(entry.call, (entry.function, entry.function_generation), entry.attempt, entry.method)
            for entry in found[0:count]
        ]

    def fail(self, slot: int, epoch: int, call: int, error: bytes) -> bool:
        """Gives a doomed call its own error (ERROR bytes), before its process is settled.

        False: it has ended, or there was not enough memory for it.
        """
        try:
            with _Error(self._client, error) as block:
                return bool(
                    lib.af_store_doomed_fail(self._client, slot, epoch, call, block, _FORMAT_ERROR) == 0
                )
        except NoRoomError:
            return False

    def overdue(self, limit_s: float) -> int | None:
        """Slot of a process that has held a lock for longer than `limit_s`, or None."""
        slot = lib.af_coroner_overdue(self._client, int(limit_s * 1e9))
        return None if slot < 0 else int(slot)

    def audit(self, *, repair: bool = False) -> Audit:
        """Counts every hold and block again and compares with the books; see ext/core/audit.h."""
        audit = ffi.new("struct af_audit *")
        _check(lib.af_audit_run(self._client, repair, _AUDIT_TRIES, audit), "auditing the segment")
        return Audit(
            blocks=sum(audit.blocks),
            bytes=audit.bytes,
            object_bytes=audit.object_bytes,
            too_high=audit.too_high,
            too_low=audit.too_low,
            lost=audit.lost,
            broken=audit.broken,
            repaired=audit.repaired,
            consistent=bool(audit.consistent),
        )

    # -- segment

    def segment(self) -> SegmentFacts:
        """The segment's size and use."""
        facts = ffi.new("struct af_store_segment *")
        lib.af_store_segment_read(self._client, facts)
        return SegmentFacts(
            node_id=bytes(ffi.buffer(facts.node_id)),
            version=facts.version,
            node_pid=facts.node_pid,
            state=NodeState(facts.node_state),
            slot_count=facts.slot_count,
            span_count=facts.span_count,
            spans_used=facts.spans_used,
            audits=facts.audits,
            size_bytes=facts.size_bytes,
            object_bytes=facts.object_bytes,
            object_bytes_used=facts.object_bytes_used,
        )

    def trim(self, keep_spans: int) -> None:
        """Node only: gives the pages of free message spans beyond `keep_spans` back to the system."""
        lib.af_heap_trim(self._client)
        lib.af_heap_punch(self._client, keep_spans)


def _value_of(value: Any) -> LargeValue:
    maker = value.maker
    return LargeValue(
        cell=(value.cell, value.cell_generation) if value.cell else None,
        block=value.block,
        bytes=value.bytes,
        in_memory=bool(value.places & lib.AF_LEDGER_MEMORY),
        on_disk=bool(value.places & lib.AF_LEDGER_DISK),
        references=value.references,
        process=(value.slot, value.epoch),
        was_put=maker.how == lib.AF_MADE_PUT,
        code=(maker.code, maker.generation) if maker.code else None,
        method=maker.method,
    )


class _Error:
    """An error value in shared memory, for as long as it is being handed out; takers count their own holds."""

    def __init__(self, client: object, data: bytes, named: Sequence[Name] = ()) -> None:
        self._client = client
        block, hold = ffi.new("af_off *"), ffi.new("uint32_t *")
        held = ffi.new("af_off[]", [offset for offset, _ in named])
        status = lib.af_store_error_create(client, data, len(data), held, len(named), block, hold)
        _check(status, "making an error value")
        self._block, self._hold = block[0], hold[0]

    def __enter__(self) -> int:
        return int(self._block)

    def __exit__(self, *_: object) -> None:
        lib.af_hold_drop(self._client, self._hold)


def _check(status: int, what: str) -> int:
    """The status, if it is good or _BUSY."""
    if status < 0 and status != _BUSY:
        kind = NoRoomError if status == _FULL else StoreError
        raise kind(f"{what}: {_STATUS.get(status, f'status {status}')}")
    return status
