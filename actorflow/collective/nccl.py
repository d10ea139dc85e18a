"""NcclCommunicator: tensors between GPUs. Imported only where a group uses it: it imports torch.

Theory of operation: a collective runs on a stream of the process group; its `wait` makes the current stream wait, not
this thread, so that communication overlaps with what the GPU computes. Sends and receives do the same, each on a stream
of this communicator that depends on the current one by an event: a receive that is begun early is on its way while the
current stream computes.

NCCL matches the operations of two ranks by their order alone. So every direction between two ranks, and every tag, has
a communicator of its own, of two ranks, made at its first use: what threads do in one order here and in another there
cannot be mistaken for each other.

NCCL does not see that a peer has died: its kernels would spin until the timeout. A thread looks at the members'
processes and aborts the communicators, by which the kernels end; what is called then raises CollectiveError.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from actorflow import _hot
from actorflow.collective.communicator import Pending, Setup
from actorflow.collective.errors import CollectiveError
from actorflow.collective.torch_group import TorchCommunicator, checked_tag, copy_back, distributed

cuda: Any = torch.cuda  # not all of it has types
WATCH_S = 0.1
_FIRST, _SECOND = 0, 1  # ranks of sender and receiver in their communicator


def require_gpu(group: str, rank: int) -> None:
    """CollectiveError where this process cannot use NCCL."""
    if not (distributed.is_nccl_available() and cuda.is_available()):
        lacks = "this build of torch has no NCCL" if cuda.is_available() else "this process sees no GPU"
        raise CollectiveError(group=group, rank=rank, reason=f"nccl cannot be used: {lacks}; use gloo")


class NcclCommunicator(TorchCommunicator):
    """A rank of an NCCL group, on this process' current GPU."""

    transport: ClassVar[str] = "nccl"

    def __init__(self, setup: Setup) -> None:
        require_gpu(setup.group, setup.rank)
        self.device = torch.device("cuda", cuda.current_device())
        self._send_stream = cuda.Stream(self.device)
        self._receive_stream = cuda.Stream(self.device)
        self._lanes: dict[tuple[int, int, int], Any] = {}  # (sender, receiver, tag) -> process group
        self._lock = threading.Lock()
        self._ended = threading.Event()
        super().__init__(setup)
        self._watcher = threading.Thread(target=self._watch, name=f"nccl-{setup.group}", daemon=True)
        self._watcher.start()

    def _make(self, store: Any, rank: int, size: int) -> Any:
        options = distributed.ProcessGroupNCCL.Options()
        options._timeout = self.timeout
        return distributed.ProcessGroupNCCL(store, rank, size, options)

    def _check_device(self, tensor: Any) -> None:
        if tensor.device != self.device:
            raise ValueError(
                f"nccl moves tensors on {self.device} here, and this one is on {tensor.device}: move it there, or "
                "use gloo for CPU tensors"
            )

    # -- between two ranks

    def isend(self, tensor: Any, peer: int, tag: int = 0) -> Pending:
        data = self._dense(tensor)
        lane = self._lane(self.rank, self._checked_rank(peer, other=True), checked_tag(tag))
        with self._on(self._send_stream, data):
            work = self._begin("send", lambda _: lane.send([data], _SECOND, 0))
            return Streamed(work, self._send_stream, self.device)

    def irecv(self, tensor: Any, peer: int, tag: int = 0) -> Pending:
        data = self._dense(tensor)
        lane = self._lane(self._checked_rank(peer, other=True), self.rank, checked_tag(tag))
        with self._on(self._receive_stream, data):
            work = self._begin("recv", lambda _: lane.recv([data], _FIRST, 0))
            return Streamed(work, self._receive_stream, self.device, lambda: copy_back(tensor, data))

    def _on(self, stream: Any, data: Any) -> Any:
        """The context of a stream, after all that the current one has been given so far."""
        stream.wait_event(cuda.current_stream(self.device).record_event())
        data.record_stream(stream)
        return cuda.stream(stream)

    def _lane(self, sender: int, receiver: int, tag: int) -> Any:
        with self._lock:
            lane = self._lanes.get((sender, receiver, tag))
            if lane is None:
                if self._reason is not None:
                    raise self._over()
                store = distributed.PrefixStore(f"{sender}-{receiver}-{tag}", self._setup.store)
                lane = self._make(store, _FIRST if self.rank == sender else _SECOND, 2)
                self._lanes[sender, receiver, tag] = lane
            return lane

    # -- the end

    def _watch(self) -> None:
        while not self._ended.wait(WATCH_S):
            dead = [rank for rank, member in enumerate(self._setup.members) if not _hot.is_live(*member)]
            if dead:
                self.abort(f"rank {', '.join(map(str, dead))} died: make another group of those that live")
                return

    def close(self) -> None:
        self._end(lambda group: group.shutdown(), "this process has left it")
        self._setup = self._setup._replace(store=None)

    def abort(self, reason: str) -> None:
        self._end(lambda group: group.abort(), reason)

    def _end(self, how: Callable[[Any], None], reason: str) -> None:
        with self._lock:
            if self._reason is None:
                self._reason = reason
            groups = [*self._lanes.values(), *([] if self._group is None else [self._group])]
            self._lanes.clear()
            self._group = None
        self._ended.set()
        for group in groups:
            how(group)


class Streamed(Pending):
    """An operation on a stream of its own. `into`: what is done once the current stream may use the tensor."""

    def __init__(
        self, work: Pending, stream: Any, device: Any, into: Callable[[], None] | None = None
    ) -> None:
        work.wait()  # makes the stream wait for the operation, which the stream's event then stands for
        self._event = stream.record_event()
        self._device = device
        self._into = into

    def wait(self) -> None:
        cuda.current_stream(self._device).wait_event(self._event)
        if self._into is not None:
            self._into()
