"""Communicator: what a member of a group of processes sends and receives tensors with.

Guarantees that every implementation gives (tests/system/test_communicator.py holds all to them):
- What one rank sends to another under one tag arrives in the order in which it was sent; tags do not disturb each
  other, nor the collectives, whichever threads they are called from.
- Collectives are called, or begun, by all ranks in the same order, from one thread at a time.
- A tensor that is received into keeps its shape, dtype and memory; what does not fit is refused before anything is sent
  where this process can know it, with ValueError or TypeError, and the communicator goes on.
- Every wait ends: with CollectiveError soon after a member died or left, with CollectiveTimeoutError after the
  communicator's timeout. It is then broken for good, and so it becomes for the others.
"""

from __future__ import annotations

import enum
import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

Tensor = Any  # torch.Tensor: torch is not imported for the sake of a type


class ReduceOp(enum.Enum):
    """How a reduction joins the values of the ranks. AVERAGE is for floating-point and complex numbers."""

    SUM = 0
    PRODUCT = 1
    MIN = 2
    MAX = 3
    AVERAGE = 4


class Setup(NamedTuple):
    """What a communicator is made from, in each member's process.

    `members`: (slot, epoch) of each rank's process; `store`: a torch.distributed.Store that all ranks share.
    """

    group: str
    rank: int
    size: int
    members: tuple[tuple[int, int], ...]
    store: Any
    timeout_s: float


class Pending(ABC):
    """A send or receive that was begun. Its tensor is to be left alone until `wait` has returned."""

    @abstractmethod
    def wait(self) -> None:
        """Returns once what the caller does next may use the tensor (on a GPU: in its current stream).
        CollectiveError."""


class _InThread(Pending):
    """An operation that blocks, in a thread of its own, after the one that `before` runs."""

    def __init__(self, operation: Callable[[], None], before: threading.Thread | None) -> None:
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(operation, before), daemon=True)
        self.thread.start()

    def _run(self, operation: Callable[[], None], before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        try:
            operation()
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        self.thread.join()
        if self._error is not None:
            raise self._error


class Communicator(ABC):
    """One rank of a group.

    `device`: where its tensors lie, as torch.device takes it; `receives_ahead`: whether a receive that was begun long
    before anything is sent to it, or for which nothing is ever sent, holds up nothing else.
    """

    transport: ClassVar[str]
    receives_ahead: ClassVar[bool] = False
    rank: int
    size: int
    device: Any = "cpu"
    _begun: threading.Thread | None = None  # where the last collective that `begin` was given runs

    def check(self, tensor: Tensor) -> None:  # noqa: B027 - one that moves every tensor has nothing to check
        """TypeError, ValueError for a tensor that this rank could not send: asked before others rely on it."""

    def begin(self, collective: str, *args: Any) -> Pending:
        """Begins the collective of that name, "allreduce" and so on, with its arguments; others may follow it.

        Here it runs in a thread, after those that were begun before: for communicators whose collectives only block.
        """
        pending = _InThread(functools.partial(getattr(self, collective), *args), self._begun)
        self._begun = pending.thread
        return pending

    @abstractmethod
    def isend(self, tensor: Tensor, peer: int, tag: int = 0) -> Pending:
        """Begins to send a tensor to rank `peer`. `tag`: 0 to 2**31 - 1."""

    @abstractmethod
    def irecv(self, tensor: Tensor, peer: int, tag: int = 0) -> Pending:
        """Begins to receive from rank `peer` into a tensor of the shape and dtype that is sent."""

    def send(self, tensor: Tensor, peer: int, tag: int = 0) -> None:
        """Sends a tensor to rank `peer`."""
        self.isend(tensor, peer, tag).wait()

    def recv(self, tensor: Tensor, peer: int, tag: int = 0) -> None:
        """Receives from rank `peer` into a tensor."""
        self.irecv(tensor, peer, tag).wait()

    @abstractmethod
    def allreduce(self, tensor: Tensor, op: ReduceOp = ReduceOp.SUM) -> None:
        """Replaces the tensor of each rank by the reduction of all."""

    @abstractmethod
    def reduce(self, tensor: Tensor, root: int = 0, op: ReduceOp = ReduceOp.SUM) -> None:
        """Replaces the tensor of rank `root` by the reduction of all; the others' content is undefined then."""

    @abstractmethod
    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """Replaces the tensor of each rank by that of rank `root`."""

    @abstractmethod
    def allgather(self, outputs: Sequence[Tensor], tensor: Tensor) -> None:
        """Puts the tensor of each rank into `outputs`, one per rank, in every rank."""

    @abstractmethod
    def reducescatter(self, output: Tensor, inputs: Sequence[Tensor], op: ReduceOp = ReduceOp.SUM) -> None:
        """Puts into the output of each rank the reduction of what all have in `inputs` for it, one per rank."""

    @abstractmethod
    def barrier(self) -> None:
        """Returns once all ranks have called it."""

    @abstractmethod
    def close(self) -> None:
        """Leaves the group in order. Idempotent; whoever still waits for this rank gets CollectiveError."""

    @abstractmethod
    def abort(self, reason: str) -> None:
        """Breaks the group from here, from any thread: calls of this rank raise CollectiveError with the reason."""


Factory = Callable[[Setup], Communicator]
