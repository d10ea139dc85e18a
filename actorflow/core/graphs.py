"""What an actor is told of its part in a compiled graph: plain data, made by the driver, followed by the worker.

A step is one operation of the graph as the actor runs it, once in each execution. Its arguments are *places*: first
those by position, then those by keyword. A place holds a constant, or what a channel's reading end gives, or a value
that an earlier step of the same actor has kept in a *register*.
"""

from __future__ import annotations

from typing import Any, NamedTuple

NOWHERE = -1
OFFER, BEGIN, END = "offer", "begin", "end"


class Edge(NamedTuple):
    """How tensors of a channel's values travel beside it: by a group, to or from its ranks `peers`, under a tag.

    `slots`: of the channel; `static_shape`: their shapes and dtypes stay those of the first execution;
    `direct_return`: a value is one tensor.
    """

    group: str
    peers: tuple[int, ...]
    tag: int
    slots: int
    static_shape: bool
    direct_return: bool


class Part(NamedTuple):
    """A step that is an actor's part of a collective operation, instead of a method. First it offers its tensor, by
    telling the others what that is; when all have done so, it begins the operation, and when all have begun, ends it.

    `kind`: "allreduce" and so on; `phase`: OFFER, BEGIN or END; `op`: name of a ReduceOp; `root`: a rank of the group,
    of a broadcast.
    """

    kind: str
    phase: str
    group: str
    op: str
    root: int


class Step(NamedTuple):
    """One operation of one actor. Ends are indices into the member's `readers` and `writers`."""

    operation: int  # its number in the graph's order
    label: str  # what errors and profiles call it
    method: str
    constants: tuple[Any, ...]  # one for each place; None where something is filled in
    names: tuple[str, ...]  # of the last places: those that are passed by keyword
    reads: tuple[tuple[int, int], ...]  # (place, reading end)
    loads: tuple[tuple[int, int], ...]  # (place, register)
    keeps: tuple[tuple[int, int], ...]  # (place, register): what was read and is needed again
    frees: tuple[int, ...]  # registers that no later step needs
    result: int = NOWHERE  # the register for its value
    write: int = NOWHERE  # the writing end for its value
    part: Part | None = None


class End(NamedTuple):
    """One end of a channel: which of the graph's channels, which of its readers, how its values travel."""

    channel: int
    reader: int = NOWHERE
    transport: str = "auto"
    edge: Edge | None = None


class MemberPlan(NamedTuple):
    """An actor's part in a graph: its steps in the order in which it runs them, and the ends that they use."""

    graph: str  # its id
    steps: tuple[Step, ...]
    readers: tuple[End, ...]
    writers: tuple[End, ...]
    registers: int
    groups: tuple[str, ...] = ()  # collective groups of the graph that the actor is in


class Timing(NamedTuple):
    """How long one step took in one execution, in nanoseconds; `start_ns` of CLOCK_MONOTONIC: when it began to wait.

    `sleeps`: how often the member went to sleep meanwhile.
    """

    execution: int
    operation: int
    start_ns: int
    wait_ns: int
    read_ns: int
    compute_ns: int
    write_ns: int
    sleeps: int
