"""One segment with its node and further clients, all in this process, and the checks that hold at every instant."""

from __future__ import annotations

from types import ModuleType
from typing import Any

OK, EMPTY, FULL, CLOSED, STALE, BAD = 0, -1, -2, -3, -4, -5
WAITING, UNREAD, STARTED, DONE = 1, 2, 3, 4
ORDERED, SHARED = 1, 2
MIB = 1 << 20


class Segment:
    """Owns the mappings; `clients[0]` is the node."""

    def __init__(self, core: ModuleType, clients: int = 4) -> None:
        self.ffi, self.lib = core.ffi, core.lib
        self.clients: list[Any] = []
        node = self.ffi.new("struct af_client *")
        layout = self.ffi.new("struct af_layout *", (16, 8 * MIB, MIB, 16 * MIB))
        assert self.lib.af_segment_create(node, layout, b"m" * 16) == OK
        self.clients.append(node)
        for _ in range(clients - 1):
            self.attach()

    def attach(self) -> Any:
        import os

        index, epoch = self.ffi.new("uint32_t *"), self.ffi.new("uint32_t *")
        assert self.lib.af_slot_reserve(self.clients[0], 2, 1, index, epoch) == OK
        client = self.ffi.new("struct af_client *")
        assert self.lib.af_segment_map(client, os.dup(self.clients[0].memfd)) == OK
        assert self.lib.af_slot_claim(client, index[0], epoch[0]) == OK
        self.clients.append(client)
        return client

    def audit(self) -> Any:
        """Every count equals the references that there are."""
        audit = self.ffi.new("struct af_audit *")
        assert self.lib.af_audit_run(self.clients[0], False, 3, audit) == OK
        assert audit.consistent
        wrong = (audit.too_high, audit.too_low, audit.lost, audit.broken)
        assert wrong == (0, 0, 0, 0), (
            f"too high, too low, lost, broken: {wrong}, first at {audit.first_wrong:#x}"
        )
        return audit

    def close(self) -> None:
        for client in reversed(self.clients):
            self.lib.af_segment_unmap(client)
