"""What lies in the object store: how large, where, held by whom, and made by what."""

from __future__ import annotations

from collections import Counter
from typing import Any

from actorflow import _hot
from actorflow.client import runtime
from actorflow.ids import hex_of
from actorflow.shm.store import LargeValue, Role, SlotFacts, Store


def list_objects() -> list[dict[str, Any]]:
    """The values of over 100 KiB of this node, the largest first, as of now. Each is a dict:

    `object_id`: as `ref.hex()` (None: arguments of a call); `size_bytes`; `state`: "memory", "disk" or both ("and");
    `made_by`: the function or method, "put" where a driver's own code put it, None where that is not known any more;
    `how`: "put" or "result"; `made_in`: {"pid", "role", "job"} of the process, None once that has ended; `holders`: of
    each process that has refs or views: {"pid", "role", "job", "references", "views"}; `held_inside`: how often it is
    referred to by other values, and by calls that are not done. What moves at that moment may be missing.
    """
    session = runtime.require()
    store = Store(_hot.client_address())
    values = store.values()
    codes = [(*value.code, value.method) for value in values if value.code is not None]
    names, _ = session.ask("code_names", codes=codes)
    name_of = dict(zip(codes, names, strict=True))
    slots = [slot for role in Role for slot in store.slots(role)]
    holds = {slot.number: Counter(hold.name[0] for hold in store.holds(slot.number)) for slot in slots}
    rows = [_row(value, name_of, slots, holds) for value in values]
    return sorted(rows, key=lambda row: -int(row["size_bytes"]))


def _row(
    value: LargeValue,
    name_of: dict[tuple[int, int, int], str | None],
    slots: list[SlotFacts],
    holds: dict[int, Counter[int]],
) -> dict[str, Any]:
    cell = value.cell[0] if value.cell is not None else 0
    holders = []
    for slot in slots:
        references, views = holds[slot.number][cell], holds[slot.number][value.block]
        if references or views:
            holders.append({**_process(slot), "references": references, "views": views})
    places = [name for name, is_there in (("memory", value.in_memory), ("disk", value.on_disk)) if is_there]
    made_by = (
        name_of[*value.code, value.method] if value.code is not None else "put" if value.was_put else None
    )
    makers = [slot for slot in slots if cell and (slot.number, slot.epoch) == value.process]
    return {
        "object_id": hex_of(value.cell) if value.cell is not None else None,
        "size_bytes": value.bytes,
        "state": " and ".join(places),
        "made_by": made_by,
        "how": "put" if value.was_put else "result",
        "made_in": _process(makers[0]) if makers else None,
        "holders": holders,
        "held_inside": max(0, value.references - sum(holder["references"] for holder in holders)),
    }


def _process(slot: SlotFacts) -> dict[str, Any]:
    return {"pid": slot.pid, "role": slot.role.name.lower(), "job": slot.job}
