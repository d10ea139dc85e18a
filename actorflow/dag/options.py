"""The options of compiling a graph: checked as all others are."""

from __future__ import annotations

import dataclasses
from typing import Any

from actorflow.options import Options, _positive, _row, _seconds, _size_bytes, _switch, _whole

MOST_SLOTS = (
    900  # of a channel: so many of the smallest fit into one, with a line for each of the most readers
)
LARGEST_BUFFER_BYTES = 1 << 20


def _slots(value: Any) -> int:
    """A number of slots of a channel."""
    return _whole(value, 1, MOST_SLOTS, f"a whole number from 1 to {MOST_SLOTS:,}")


def _buffer_bytes(value: Any) -> int:
    """A size in bytes for a slot of a channel."""
    size = _size_bytes(value)
    if not 0 < size <= LARGEST_BUFFER_BYTES:
        raise ValueError(f"must be from 1 to {LARGEST_BUFFER_BYTES:,} bytes, not {size:,}")
    return size


def _communicator(value: Any) -> Any:
    """'create', or what makes communicators."""
    if value != "create" and not callable(value):
        raise TypeError(f"must be 'create' or a function that makes a Communicator of a Setup, not {value!r}")
    return value


# ruff: noqa: RUF009 - a row is a field, its default is never shared
@dataclasses.dataclass(frozen=True, init=False)
class GraphOptions(Options):
    """Options of compiling a graph. Ray's names with an underscore before them mean the same."""

    _noun = "graph option"

    submit_timeout: float = _row(
        10.0, _seconds, "seconds that execute waits for room in the input's channels"
    )
    buffer_size_bytes: int = _row(
        8192, _buffer_bytes, "bytes of a value that lie in a channel's slot; larger ones go through the store"
    )
    max_inflight_executions: int = _row(
        10, _slots, "executions begun whose results have not been read; also each channel's slots"
    )
    max_buffered_results: int = _row(
        1000, _positive, "results of earlier executions that are kept while a later one is read"
    )
    enable_asyncio: bool = _row(False, _switch, "makes no difference: results can always be awaited")
    overlap_gpu_communication: bool = _row(False, _switch, "tensors travel while the next operation computes")
    default_communicator: Any = _row(
        "create", _communicator, "what moves tensors where a node names no other: a function of a Setup"
    )

    def __init__(self, **given: Any) -> None:
        names = self.__dataclass_fields__
        super().__init__(
            **{name[1:] if name[:1] == "_" and name[1:] in names else name: given[name] for name in given}
        )


def communicator_of(options: GraphOptions) -> Any:
    """What makes the communicators of a graph's groups; None: the transport's own."""
    return None if options.default_communicator == "create" else options.default_communicator
