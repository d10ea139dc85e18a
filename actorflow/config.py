"""Every tunable of the runtime, read once from ACTORFLOW_* environment variables.

A tunable is one row of `Config`: its name with the unit last, its default, the range it may
take, and the reason for the default. The variable is the name in capitals after `ACTORFLOW_`:
`spin_us` is set by `ACTORFLOW_SPIN_US`. The processes of a node inherit the variables of the
process that started it, so they agree.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping
from typing import Any, TypeVar

PREFIX = "ACTORFLOW_"

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")

Value = int | float | str | bool
T = TypeVar("T", int, float, str, bool)


def _row(default: T, reason: str, low: float | None = None, high: float | None = None) -> T:
    """One tunable: its default, why it has that default, and the range it may take."""
    return dataclasses.field(default=default, metadata={"reason": reason, "low": low, "high": high})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The tunables of one process. Made by `read`; defaults need no environment at all."""

    address: str = _row(
        "", "unset, af.init() starts a private node; 'auto' or a node's name attaches to one that runs"
    )
    spin_us: int = _row(
        50,
        "waking from sleep costs 40-120 us, so looking longer than that wins nothing; 0: never spin",
        0,
        10_000,
    )
    client_slots: int = _row(
        4_096,
        "processes attached at once: room for 2,000 actors, their forks and some drivers",
        8,
        65_536,
    )
    message_memory_bytes: int = _row(
        GIB,
        "calls and small results; only pages in use take memory, so this is a limit, not a cost",
        64 * MIB,
        TIB,
    )
    control_reserve_bytes: int = _row(
        32 * MIB,
        "part of message memory that no flood of calls can take from actors and results",
        MIB,
        32 * MIB,
    )
    object_store_fraction: float = _row(
        0.3,
        "share of the memory limit for objects where object_store_memory is not given, as in Ray",
        0.01,
        0.9,
    )
    spill_directories: str = _row(
        "",
        "where objects go when the store is full: paths or fsspec URLs, comma-separated, used in turn; unset: "
        "the directory for temporary files; 'none': nowhere. Files there have no names and end with the node",
    )
    spill_ahead_fraction: float = _row(
        0.1,
        "share of the store that spilling frees beyond what is wanted, so that disk and writers work at once",
        0.0,
        0.9,
    )
    store_wait_s: float = _row(
        3.0,
        "how long one waits for room in the object store without any object being freed or spilled meanwhile",
        0.0,
        3_600.0,
    )
    lineage_budget_bytes: int = _row(
        64 * MIB,
        "message memory for what results in the store are made from again when their files are lost: half a KiB a "
        "result, up to 100 KiB with its small arguments; beyond, the oldest are forgotten; 0: none is kept",
        0,
        TIB,
    )
    memory_threshold: float = _row(
        0.95,
        "share of the memory limit above which the newest task is killed, before the kernel kills anything; 1: never",
        0.1,
        1.0,
    )
    memory_limit_bytes: int = _row(
        0,
        "what the workers and objects of a node may use together; 0: what the machine or its cgroup has",
        0,
        1 << 60,
    )
    lane_credit: int = _row(
        131_072,
        "unread calls of one caller in one mailbox: 100,000 queued tasks fit, a flood is held",
        16,
        1 << 24,
    )
    in_band_limit_bytes: int = _row(
        KIB, "a smaller buffer costs more as an aligned piece of its own than as a copy in the stream", 0, MIB
    )
    tensor_views: bool = _row(
        False, "torch has no read-only tensors: writing to a view would end the process, so they are copied"
    )
    control_frame_bytes: int = _row(
        MIB,
        "the longest control message holds sys.path; a longer frame comes from a peer gone wrong",
        4 * KIB,
        GIB,
    )
    timeline_events: int = _row(
        0,
        "calls that the node remembers for af.timeline(), about 200 bytes each; 0: off, and costs nothing",
        0,
        10_000_000,
    )
    output_buffer_bytes: int = _row(
        4 * MIB,
        "workers' lines that wait for a driver that is busy; beyond, they are dropped and counted",
        64 * KIB,
        GIB,
    )
    output_repeat_s: float = _row(
        5.0,
        "lines that several processes print alike in this time are shown once, as in Ray; 0: all are",
        0.0,
        3_600.0,
    )
    output_json: bool = _row(
        False, "for people, lines get a prefix; for programs, each one can be a JSON object"
    )
    attach_timeout_s: float = _row(
        10.0,
        "a node answers Hello in under 1 ms; whole seconds pass only on a machine that swaps",
        0.1,
        600.0,
    )
    idle_worker_s: float = _row(
        1.0,
        "a fork costs 2.4 ms and an idle worker 1 MB: a second keeps bursts warm, hoards nothing",
        0.0,
        86_400.0,
    )
    shutdown_grace_s: float = _row(
        2.0, "for user code to end by itself before its process is killed", 0.0, 3_600.0
    )
    stopped_holder_s: float = _row(
        5.0,
        "a stopped process that holds a role is killed after this, before its work goes to others",
        0.1,
        3_600.0,
    )


def read(environment: Mapping[str, str]) -> Config:
    """Makes a Config from environment variables; unset or empty ones keep their defaults.

    Raises ValueError, naming the variable and what it may be, for a value that does not parse
    or lies outside its range.
    """
    given: dict[str, Any] = {}
    for row in dataclasses.fields(Config):
        text = environment.get(variable(row.name), "").strip()
        if text:
            given[row.name] = _parsed(row, text)
    return Config(**given)


@functools.cache
def current() -> Config:
    """The Config of this process, read from os.environ at the first call and then kept."""
    return read(os.environ)


def variable(name: str) -> str:
    """The environment variable that sets the tunable `name`."""
    return PREFIX + name.upper()


def _parsed(row: dataclasses.Field[Any], text: str) -> Value:
    """`text` as the type of the row's default, or ValueError."""
    if isinstance(row.default, str):
        return text
    if isinstance(row.default, bool):
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise _refused(row, text, "one of " + ", ".join(_TRUE + _FALSE))
    low, high = row.metadata["low"], row.metadata["high"]
    noun = "a whole number" if isinstance(row.default, int) else "a number"
    try:
        value = int(text) if isinstance(row.default, int) else float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise _refused(row, text, f"{noun} from {low:,} to {high:,}")
    return value


def _refused(row: dataclasses.Field[Any], text: str, allowed: str) -> ValueError:
    return ValueError(
        f"{variable(row.name)}={text!r} is not {allowed}; unset it for the default, {row.default}"
    )
