"""What communicators over torch.distributed share: the process group, checks, and what its failures mean.

The groups are objects of their own: torch's default group, which belongs to the user's code, is neither made nor used.
A failed operation leaves a process group in a state that nobody promises anything of. So the first failure breaks the
communicator: it lets go of the group, which closes its connections, by which the others fail as well, one after the
other. Thus all ranks learn of a death, also those that had nothing to do with the dead one.
"""

from __future__ import annotations

import datetime
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed

from actorflow import _hot
from actorflow.collective.communicator import Communicator, Pending, ReduceOp, Setup
from actorflow.collective.errors import CollectiveError, CollectiveTimeoutError

distributed: Any = torch.distributed  # its types say less than it has
NOTICE_S = 0.3  # a death is seen by its connections before the node has settled it
LOOK_S = 0.005
LARGEST_TAG = 2**31 - 1
_OPS = {
    ReduceOp.SUM: distributed.ReduceOp.SUM,
    ReduceOp.PRODUCT: distributed.ReduceOp.PRODUCT,
    ReduceOp.MIN: distributed.ReduceOp.MIN,
    ReduceOp.MAX: distributed.ReduceOp.MAX,
    ReduceOp.AVERAGE: distributed.ReduceOp.AVG,
}
_LINEAR_OPS = (ReduceOp.SUM, ReduceOp.AVERAGE)


class TorchCommunicator(Communicator):
    """A rank of a torch.distributed process group."""

    def __init__(self, setup: Setup) -> None:
        self.rank = setup.rank
        self.size = setup.size
        self._setup = setup
        self._reason: str | None = None  # why it is broken, or closed
        self._timed_out = False
        try:
            self._group: Any = self._make(distributed.PrefixStore("all", setup.store), setup.rank, setup.size)
        except RuntimeError as error:
            raise self._broken_by("connecting", error) from None

    @abstractmethod
    def _make(self, store: Any, rank: int, size: int) -> Any:
        """The process group of that size over the store."""

    @abstractmethod
    def _check_device(self, tensor: Any) -> None:
        """ValueError for a tensor that lies where this transport does not reach."""

    @property
    def timeout(self) -> datetime.timedelta:
        """How long an operation may take."""
        return datetime.timedelta(seconds=self._setup.timeout_s)

    # -- operations

    def allreduce(self, tensor: Any, op: ReduceOp = ReduceOp.SUM) -> None:
        self.begin("allreduce", tensor, op).wait()

    def reduce(self, tensor: Any, root: int = 0, op: ReduceOp = ReduceOp.SUM) -> None:
        self.begin("reduce", tensor, root, op).wait()

    def broadcast(self, tensor: Any, root: int = 0) -> None:
        self.begin("broadcast", tensor, root).wait()

    def allgather(self, outputs: Sequence[Any], tensor: Any) -> None:
        self.begin("allgather", outputs, tensor).wait()

    def reducescatter(self, output: Any, inputs: Sequence[Any], op: ReduceOp = ReduceOp.SUM) -> None:
        self.begin("reducescatter", output, inputs, op).wait()

    def barrier(self) -> None:
        self.begin("barrier").wait()

    def begin(self, collective: str, *args: Any) -> Pending:
        begin: Callable[..., Pending] = getattr(self, f"_{collective}")
        return begin(*args)

    def _allreduce(self, tensor: Any, op: ReduceOp = ReduceOp.SUM) -> Pending:
        data = self._reducible(tensor, op)
        return self._begin_any(
            "allreduce",
            data,
            lambda group: group.allreduce([data], _OPS[op]),
            lambda: copy_back(tensor, data),
        )

    def _reduce(self, tensor: Any, root: int = 0, op: ReduceOp = ReduceOp.SUM) -> Pending:
        data = self._reducible(tensor, op)
        options = distributed.ReduceOptions()
        options.rootRank, options.reduceOp = self._checked_rank(root), _OPS[op]
        into = (lambda: copy_back(tensor, data)) if self.rank == root else None
        return self._begin_any("reduce", data, lambda group: group.reduce([data], options), into)

    def _broadcast(self, tensor: Any, root: int = 0) -> Pending:
        data = self._dense(tensor)
        options = distributed.BroadcastOptions()
        options.rootRank = self._checked_rank(root)
        return self._begin_any(
            "broadcast",
            data,
            lambda group: group.broadcast([_bytes(data)], options),
            lambda: copy_back(tensor, data),
        )

    def _allgather(self, outputs: Sequence[Any], tensor: Any) -> Pending:
        data = self._dense(tensor)
        self._check_parts("allgather", outputs, data)
        parts = [self._dense(output) for output in outputs]

        def put_back() -> None:
            for output, part in zip(outputs, parts, strict=True):
                copy_back(output, part)

        return self._begin_any(
            "allgather",
            data,
            lambda group: group.allgather([[_bytes(part) for part in parts]], [_bytes(data)]),
            put_back,
        )

    def _reducescatter(self, output: Any, inputs: Sequence[Any], op: ReduceOp = ReduceOp.SUM) -> Pending:
        data = self._reducible(output, op)
        self._check_parts("reducescatter", inputs, data)
        options = distributed.ReduceScatterOptions()
        options.reduceOp = _OPS[op]
        parts = [self._dense(part) for part in inputs]
        return self._begin_any(
            "reducescatter",
            data,
            lambda group: group.reduce_scatter([data], [parts], options),
            lambda: copy_back(output, data),
        )

    def _barrier(self) -> Pending:
        return self._begin("barrier", lambda group: group.barrier())

    # -- the end

    def close(self) -> None:
        if self._reason is None:
            self._reason = "this process has left it"
        self._group = None
        self._setup = self._setup._replace(store=None)

    def abort(self, reason: str) -> None:
        if self._reason is None:
            self._reason = reason
        self._group = None

    # -- what operations are made of

    def _begin_any(
        self, what: str, data: Any, start: Callable[[Any], Any], into: Callable[[], None] | None
    ) -> Pending:
        """As `_begin`; where there are no elements, nothing."""
        return self._begin(what, start, into) if data.numel() else _Nothing()

    def _begin(self, what: str, start: Callable[[Any], Any], into: Callable[[], None] | None = None) -> Work:
        group = self._group
        if group is None:
            raise self._over()
        try:
            return Work(self, what, start(group), into)
        except RuntimeError as error:
            raise self._broken_by(what, error) from None

    def _over(self) -> CollectiveError:
        kind = CollectiveTimeoutError if self._timed_out else CollectiveError
        return kind(group=self._setup.group, rank=self.rank, reason=self._reason or "it has broken")

    def _broken_by(self, what: str, error: BaseException) -> CollectiveError:
        """Breaks the communicator; the error that says by what."""
        if self._reason is None:
            self._timed_out = "imed out" in str(error) or isinstance(error, TimeoutError)
            self.abort(self._explained(what, error))
        return self._over()

    def _explained(self, what: str, error: BaseException) -> str:
        if self._timed_out:
            late = f"{what} of rank {self.rank} did not end within {self._setup.timeout_s:g} s"
            return f"{late}: did all ranks call it, in the same order? The group is broken: make another one"
        dead = self._dead()
        if dead:
            return (
                f"rank {', '.join(map(str, dead))} died during {what}: make another group of those that live"
            )
        return f"{what} of rank {self.rank} failed: a member left, failed itself, or called something else ({error})"

    def _dead(self) -> list[int]:
        """The ranks whose process has ended, as far as the node knows within a moment."""
        deadline = time.monotonic() + NOTICE_S
        while True:
            dead = [rank for rank, member in enumerate(self._setup.members) if not _hot.is_live(*member)]
            if dead or time.monotonic() > deadline:
                return dead
            time.sleep(LOOK_S)

    # -- checks

    def _checked_rank(self, rank: Any, other: bool = False) -> int:
        if not isinstance(rank, int) or isinstance(rank, bool):
            raise TypeError(f"a rank is a whole number, not {rank!r}")
        if not 0 <= rank < self.size:
            raise ValueError(f"rank {rank} is none of group {self._setup.group!r}: 0 to {self.size - 1}")
        if other and rank == self.rank:
            raise ValueError(f"rank {rank} is this process itself")
        return rank

    def check(self, tensor: Any) -> None:
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"must be a torch.Tensor, not {type(tensor).__name__}")
        if tensor.layout is not torch.strided:
            raise TypeError(f"must be a dense tensor, not one of layout {tensor.layout}")
        if tensor.is_quantized:
            raise TypeError("must be a plain tensor, not a quantized one: its scale would not come along")
        self._check_device(tensor)

    def _dense(self, tensor: Any) -> Any:
        """The tensor, or a copy of it, as one piece of memory."""
        self.check(tensor)
        return tensor.detach().resolve_conj().resolve_neg().contiguous()

    def _reducible(self, tensor: Any, op: ReduceOp) -> Any:
        data = self._dense(tensor)
        has_parts = data.dtype.is_floating_point or data.dtype.is_complex
        if op is ReduceOp.AVERAGE and not has_parts:
            raise TypeError(f"the average of {data.dtype} is not a {data.dtype}: reduce with SUM, or floats")
        if op not in _LINEAR_OPS and data.dtype.is_complex:
            raise TypeError(f"{data.dtype} is reduced with SUM or AVERAGE, not with {op.name}")
        if data.dtype not in self._reduced:
            raise TypeError(f"{self.transport} reduces no {data.dtype}")
        return data

    _reduced: frozenset[torch.dtype] = frozenset(
        (
            *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
            *(torch.uint8, torch.int8, torch.int32, torch.int64),
        )
    )

    def _check_parts(self, what: str, parts: Sequence[Any], data: Any) -> None:
        if not isinstance(parts, list | tuple) or len(parts) != self.size:
            count = len(parts) if isinstance(parts, list | tuple) else type(parts).__name__
            raise ValueError(f"{what} needs a list of {self.size} tensors, one per rank, not {count}")
        for index, part in enumerate(parts):
            if not isinstance(part, torch.Tensor):
                raise TypeError(f"{what}: item {index} must be a torch.Tensor, not {type(part).__name__}")
            if part.shape != data.shape or part.dtype != data.dtype:
                raise ValueError(
                    f"{what}: item {index} has shape {tuple(part.shape)} and {part.dtype}, the other tensor "
                    f"{tuple(data.shape)} and {data.dtype}"
                )


class _Nothing(Pending):
    """An operation on no elements."""

    def wait(self) -> None:
        pass


class Work(Pending):
    """An operation that torch has begun. `into`: what is done once it has ended."""

    def __init__(
        self, communicator: TorchCommunicator, what: str, work: Any, into: Callable[[], None] | None
    ) -> None:
        self._communicator = communicator
        self._what = what
        self._work = work
        self._into = into

    def wait(self) -> None:
        try:
            self._work.wait()
        except RuntimeError as error:
            raise self._communicator._broken_by(self._what, error) from None
        if self._into is not None:
            self._into()


def checked_tag(tag: Any) -> int:
    """The tag. TypeError, ValueError."""
    if not isinstance(tag, int) or isinstance(tag, bool):
        raise TypeError(f"a tag is a whole number, not {tag!r}")
    if not 0 <= tag <= LARGEST_TAG:
        raise ValueError(f"tag {tag} must be from 0 to {LARGEST_TAG}")
    return tag


def _bytes(data: Any) -> Any:
    """The elements of a dense tensor as bytes: what is only moved may be of any dtype."""
    return data.reshape(-1).view(torch.uint8)


def copy_back(tensor: Any, data: Any) -> None:
    """Puts what was worked on into the tensor that it is a copy of; nothing where it is that tensor's memory."""
    if data.data_ptr() != tensor.data_ptr():
        with torch.no_grad():
            tensor.copy_(data)
