"""What the members of collective groups run in tests: each body is given this rank's communicator."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import torch

import actorflow as af
from actorflow.util import collective
from actorflow.util.collective import Communicator, Pending, ReduceOp, Setup

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "complex64")
MOVED_DTYPES = (*DTYPES, "bool", "int16")


@af.remote(num_cpus=0)
class Member:
    """An actor that runs bodies with its communicator of a group."""

    def run(self, group: str, body: Callable[..., Any], *args: Any) -> Any:
        return body(collective.get_group_handle(group), *args)

    def join(self, size: int, rank: int, group: str, timeout_ms: int = 30_000, backend: Any = "gloo") -> int:
        collective.init_collective_group(size, rank, backend, group, timeout_ms)
        return collective.get_rank(group)

    def pid(self) -> int:
        return os.getpid()

    def torch_is_loaded(self) -> bool:
        import sys

        return "torch" in sys.modules


class Counting(Communicator):
    """A user's own communicator: gloo's, and counts what goes through."""

    transport = "counting"

    def __init__(self, inner: Communicator) -> None:
        self.inner = inner
        self.rank, self.size = inner.rank, inner.size
        self.sent = self.received = 0

    def isend(self, tensor: Any, peer: int, tag: int = 0) -> Pending:
        self.sent += 1
        return self.inner.isend(tensor, peer, tag)

    def irecv(self, tensor: Any, peer: int, tag: int = 0) -> Pending:
        self.received += 1
        return self.inner.irecv(tensor, peer, tag)

    def allreduce(self, tensor: Any, op: ReduceOp = ReduceOp.SUM) -> None:
        self.inner.allreduce(tensor, op)

    def reduce(self, tensor: Any, root: int = 0, op: ReduceOp = ReduceOp.SUM) -> None:
        self.inner.reduce(tensor, root, op)

    def broadcast(self, tensor: Any, root: int = 0) -> None:
        self.inner.broadcast(tensor, root)

    def allgather(self, outputs: Any, tensor: Any) -> None:
        self.inner.allgather(outputs, tensor)

    def reducescatter(self, output: Any, inputs: Any, op: ReduceOp = ReduceOp.SUM) -> None:
        self.inner.reducescatter(output, inputs, op)

    def barrier(self) -> None:
        self.inner.barrier()

    def close(self) -> None:
        self.inner.close()

    def abort(self, reason: str) -> None:
        self.inner.abort(reason)


def counting(setup: Setup) -> Communicator:
    """A factory, as users pass it for `backend`."""
    from actorflow.collective.gloo import GlooCommunicator

    return Counting(GlooCommunicator(setup))


class CountingAhead(Counting):
    receives_ahead = True


def counting_ahead(setup: Setup) -> Communicator:
    """The same, whose receives may be begun long before anything is sent."""
    from actorflow.collective.gloo import GlooCommunicator

    return CountingAhead(GlooCommunicator(setup))


class Stopping(Counting):
    """One that is stopped (SIGSTOP) when it should send."""

    def isend(self, tensor: Any, peer: int, tag: int = 0) -> Pending:
        os.kill(os.getpid(), signal.SIGSTOP)
        return super().isend(tensor, peer, tag)


def stopping(setup: Setup) -> Communicator:
    """A factory of those."""
    from actorflow.collective.gloo import GlooCommunicator

    return Stopping(GlooCommunicator(setup))


class Deadly(Pending):
    def wait(self) -> None:
        os._exit(3)


class Dying(Counting):
    """One whose rank 1 dies when all have begun an operation, and it has sent nothing."""

    def begin(self, collective: str, *args: Any) -> Pending:
        return Deadly() if self.rank == 1 else super().begin(collective, *args)


def dying(setup: Setup) -> Communicator:
    """A factory of those."""
    from actorflow.collective.gloo import GlooCommunicator

    return Dying(GlooCommunicator(setup))


class Failing(Counting):
    """One that cannot do what it is asked for."""

    fails = ""

    def isend(self, tensor: Any, peer: int, tag: int = 0) -> Pending:
        if self.fails == "isend":
            raise RuntimeError("no cable")
        return super().isend(tensor, peer, tag)

    def irecv(self, tensor: Any, peer: int, tag: int = 0) -> Pending:
        if self.fails == "irecv":
            raise RuntimeError("no cable")
        return super().irecv(tensor, peer, tag)


def failing(what: str, setup: Setup) -> Communicator:
    """A factory of those."""
    from actorflow.collective.gloo import GlooCommunicator

    made = Failing(GlooCommunicator(setup))
    made.fails = what
    return made


def values(rank: int, dtype: str, shape: tuple[int, ...] = (3, 5)) -> torch.Tensor:
    """Small whole numbers that differ between ranks; every dtype sums and multiplies them exactly."""
    count = 1
    for length in shape:
        count *= length
    numbers = (torch.arange(count) + rank) % 3 + 1
    return numbers.reshape(shape).to(getattr(torch, dtype))


def reduced(size: int, dtype: str, op: ReduceOp) -> torch.Tensor:
    """What reducing all ranks' values gives, as torch computes it in one process."""
    stacked = torch.stack([values(rank, dtype) for rank in range(size)])
    if op is ReduceOp.SUM:
        return stacked.sum(0).to(stacked.dtype)
    if op is ReduceOp.PRODUCT:
        return stacked.prod(0).to(stacked.dtype)
    if op is ReduceOp.AVERAGE:
        return (stacked.sum(0) / size).to(stacked.dtype)
    return stacked.amin(0) if op is ReduceOp.MIN else stacked.amax(0)


def on(communicator: Communicator, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor where the communicator can reach it."""
    return tensor.to(communicator.device)


def allreduce(communicator: Communicator, dtype: str, op: ReduceOp) -> torch.Tensor:
    tensor = on(communicator, values(communicator.rank, dtype))
    communicator.allreduce(tensor, op)
    return tensor.cpu()


def reduce(communicator: Communicator, root: int, op: ReduceOp) -> torch.Tensor:
    tensor = on(communicator, values(communicator.rank, "float64"))
    communicator.reduce(tensor, root, op)
    return tensor.cpu()


def broadcast(communicator: Communicator, root: int, dtype: str) -> torch.Tensor:
    tensor = on(communicator, values(communicator.rank, dtype))
    communicator.broadcast(tensor, root)
    return tensor.cpu()


def allgather(communicator: Communicator, dtype: str) -> list[torch.Tensor]:
    tensor = on(communicator, values(communicator.rank, dtype))
    outputs = [torch.zeros_like(tensor) for _ in range(communicator.size)]
    communicator.allgather(outputs, tensor)
    return [output.cpu() for output in outputs]


def reducescatter(communicator: Communicator, op: ReduceOp) -> torch.Tensor:
    inputs = [
        on(communicator, values(communicator.rank + part, "float64")) for part in range(communicator.size)
    ]
    output = torch.zeros_like(inputs[0])
    communicator.reducescatter(output, inputs, op)
    return output.cpu()


def ring(communicator: Communicator, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Sends to the next rank, and gives what came from the one before."""
    size = communicator.size
    sending = communicator.isend(
        on(communicator, values(communicator.rank, dtype, shape)), (communicator.rank + 1) % size
    )
    tensor = on(communicator, torch.zeros(shape, dtype=getattr(torch, dtype)))
    communicator.recv(tensor, (communicator.rank - 1) % size)
    sending.wait()
    return tensor.cpu()


def tags(communicator: Communicator) -> list[float]:
    """Rank 0 sends under two tags; rank 1 asks for the later one first."""
    if communicator.rank == 0:
        begun = [
            communicator.isend(on(communicator, torch.full((4,), float(tag))), 1, tag) for tag in (7, 8, 8)
        ]
        for sending in begun:
            sending.wait()
    if communicator.rank != 1:
        return []
    found = []
    for tag in (8, 7, 8):
        tensor = on(communicator, torch.zeros(4))
        communicator.recv(tensor, 0, tag)
        found.append(float(tensor[0]))
    return found


def apart(communicator: Communicator) -> tuple[torch.Tensor, torch.Tensor]:
    """Operations on tensors that are not one piece of memory."""
    whole = on(communicator, values(communicator.rank, "float32", (4, 6)))
    rows, columns = whole[::2], whole.t()[1::2]
    communicator.allreduce(rows)
    communicator.broadcast(columns, 0)
    return rows.cpu(), columns.cpu()


def small(communicator: Communicator) -> list[tuple[int, ...]]:
    """Operations on tensors of no and of one element."""
    shapes = []
    for tensor in (torch.zeros(0, 3), torch.tensor(2.0), torch.tensor([1.0])):
        data = on(communicator, tensor)
        communicator.allreduce(data)
        communicator.broadcast(data, 0)
        communicator.allgather([torch.zeros_like(data) for _ in range(communicator.size)], data)
        shapes.append(tuple(data.shape))
    return shapes


def wrong(communicator: Communicator) -> list[str]:
    """Every call that is refused before anything is sent; then one that works."""
    good, size = on(communicator, torch.ones(2)), communicator.size
    calls: list[Callable[[], object]] = [
        lambda: communicator.allreduce([1.0]),
        lambda: communicator.allreduce(torch.eye(3).to_sparse()),
        lambda: communicator.allreduce(on(communicator, torch.ones(2, dtype=torch.int64)), ReduceOp.AVERAGE),
        lambda: communicator.allreduce(on(communicator, torch.ones(2, dtype=torch.complex64)), ReduceOp.MAX),
        lambda: communicator.broadcast(good, size),
        lambda: communicator.broadcast(good, -1),
        lambda: communicator.reduce(good, True),
        lambda: communicator.send(good, communicator.rank),
        lambda: communicator.send(good, (communicator.rank + 1) % size, -1),
        lambda: communicator.recv(good, (communicator.rank + 1) % size, "tag"),  # type: ignore[arg-type] # refused
        lambda: communicator.allgather([good] * (size + 1), good),
        lambda: communicator.allgather([good] * size, on(communicator, torch.ones(3))),
        lambda: communicator.reducescatter(good, [good.to(torch.float64)] * size),
        lambda: communicator.reducescatter(good, [None] * size),
    ]
    kinds = []
    for call in calls:
        try:
            call()
            kinds.append("accepted")
        except (TypeError, ValueError) as error:
            kinds.append(type(error).__name__)
    communicator.allreduce(good)
    return [*kinds, str(float(good[0]))]


def at_once(communicator: Communicator) -> tuple[float, float]:
    """A thread sends around the ring while this one reduces: neither disturbs the other."""
    received: list[torch.Tensor] = []

    def go_around() -> None:
        for index in range(20):
            shift = on(communicator, torch.full((1000,), float(index)))
            sending = communicator.isend(shift, (communicator.rank + 1) % communicator.size, 3)
            tensor = torch.zeros_like(shift)
            communicator.recv(tensor, (communicator.rank - 1) % communicator.size, 3)
            sending.wait()
            received.append(tensor)

    thread = threading.Thread(target=go_around)
    thread.start()
    total = on(communicator, torch.zeros(1000))
    for _ in range(20):
        part = on(communicator, torch.ones(1000))
        communicator.allreduce(part)
        total += part
    thread.join()
    return float(total.sum()), sum(float(tensor[0]) for tensor in received)


def unanswered(communicator: Communicator) -> list[float] | None:
    """What goes on beside a receive for which nothing is sent; None: this communicator does not promise it."""
    if not communicator.receives_ahead:
        return None
    communicator.irecv(torch.zeros(2), (communicator.rank - 1) % communicator.size, tag=9)
    before = torch.ones(1)
    communicator.allreduce(before)
    passed = ring(communicator, "float32", (3,))
    return [float(before), float(passed.numel())]


def aborted(communicator: Communicator) -> None:
    """Waits for what nobody sends, until another thread breaks the group."""
    threading.Timer(0.1, communicator.abort, ("that is enough",)).start()
    communicator.recv(torch.zeros(2), (communicator.rank + 1) % communicator.size)


def begun(communicator: Communicator) -> list[float]:
    """Several operations that are begun before the first is waited for."""
    tensors = [on(communicator, torch.full((2,), float(number))) for number in range(3)]
    outputs = [torch.zeros_like(tensors[0]) for _ in range(communicator.size)]
    pending = [
        communicator.begin("allreduce", tensors[0]),
        communicator.begin("broadcast", tensors[1], 0),
        communicator.begin("allreduce", tensors[2], ReduceOp.MAX),
        communicator.begin("allgather", outputs, tensors[0]),
        communicator.begin("allreduce", on(communicator, torch.zeros(0))),
    ]
    for operation in reversed(pending):
        operation.wait()
    return [float(tensor[0]) for tensor in (*tensors, *outputs)]


def use_of_default_group(_: Communicator) -> bool:
    return torch.distributed.is_initialized()


def one(communicator: Communicator, operation: str) -> None:
    """One operation that needs the other ranks."""
    tensor = on(communicator, torch.ones(100_000))
    copies = [tensor.clone() for _ in range(communicator.size)]
    calls: dict[str, Callable[[], None]] = {
        "allreduce": lambda: communicator.allreduce(tensor),
        "reduce": lambda: communicator.reduce(tensor, 1),
        "broadcast": lambda: communicator.broadcast(tensor, 0),
        "allgather": lambda: communicator.allgather(copies, tensor),
        "reducescatter": lambda: communicator.reducescatter(tensor, copies),
        "barrier": communicator.barrier,
        "recv": lambda: communicator.recv(tensor, 0),
        "send": lambda: communicator.send(tensor, 0),
    }
    calls[operation]()


OPERATIONS = ("allreduce", "reduce", "broadcast", "allgather", "reducescatter", "barrier", "recv", "send")
