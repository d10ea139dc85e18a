"""GlooCommunicator: tensors between CPUs, over TCP. Imported only where a group uses it: it imports torch.

Operations that have begun keep the group's connections open, and gloo has no function that closes them. But a receive
that gives up closes all connections of its group, so that is how a group is broken for who waits in another thread.
"""

from __future__ import annotations

import contextlib
import datetime
from typing import Any, ClassVar

import torch

from actorflow.collective.communicator import Pending
from actorflow.collective.torch_group import (
    LARGEST_TAG,
    TorchCommunicator,
    checked_tag,
    copy_back,
    distributed,
)

THREADS = 2
SOON = datetime.timedelta(milliseconds=1)
LOOPBACK = "127.0.0.1"  # the members are processes of one machine


class GlooCommunicator(TorchCommunicator):
    """A rank of a gloo group. A peer that died or left closes its connections, which ends every wait for it."""

    transport: ClassVar[str] = "gloo"
    receives_ahead: ClassVar[bool] = True

    def _make(self, store: Any, rank: int, size: int) -> Any:
        options = distributed.ProcessGroupGloo._Options()
        options._timeout = self.timeout
        options._threads = THREADS
        options._devices = [distributed.ProcessGroupGloo.create_device(hostname=LOOPBACK)]
        return distributed.ProcessGroupGloo(store, rank, size, options)

    def _check_device(self, tensor: Any) -> None:
        if tensor.device.type != "cpu":
            raise ValueError(
                f"gloo moves CPU tensors, and this one is on {tensor.device}: use nccl, or .cpu()"
            )

    def isend(self, tensor: Any, peer: int, tag: int = 0) -> Pending:
        data = self._dense(tensor)
        peer, tag = self._checked_rank(peer, other=True), checked_tag(tag)
        return self._begin("send", lambda group: group.send([data], peer, tag))

    def irecv(self, tensor: Any, peer: int, tag: int = 0) -> Pending:
        data = self._dense(tensor)
        peer, tag = self._checked_rank(peer, other=True), checked_tag(tag)
        return self._begin(
            "recv", lambda group: group.recv([data], peer, tag), lambda: copy_back(tensor, data)
        )

    def abort(self, reason: str) -> None:
        group = self._group
        super().abort(reason)
        if group is not None and self.size > 1:
            with contextlib.suppress(RuntimeError):  # it gives up, or the connections are closed already
                group.recv([torch.empty(1)], (self.rank + 1) % self.size, LARGEST_TAG).wait(SOON)
