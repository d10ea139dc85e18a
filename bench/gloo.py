"""The machine's limit for tensors between two processes: bare torch.distributed with gloo, there and a byte back."""

import importlib
import os
from datetime import timedelta
from typing import Any

from bench.systems.base import Unsupported

TIMEOUT = timedelta(seconds=30)
ELEMENT_BYTES = 4


class GlooPair:
    """This process and a forked one, in a process group of their own. Needs torch."""

    def __init__(self, size_bytes: int) -> None:
        torch, distributed = _modules()
        self._store = distributed.TCPStore(
            "127.0.0.1", 0, 2, is_master=True, wait_for_workers=False, timeout=TIMEOUT
        )
        self._pid = os.fork()
        if not self._pid:
            try:
                store = distributed.TCPStore(
                    "127.0.0.1", self._store.port, 2, is_master=False, timeout=TIMEOUT
                )
                _receive(_group(distributed, store, 1), torch, size_bytes)
            finally:
                os._exit(0)
        self._group = _group(distributed, self._store, 0)
        self._tensor = torch.ones(size_bytes // ELEMENT_BYTES, dtype=torch.float32)
        self._answer = torch.ones(1)

    def send(self) -> None:
        """The tensor there, a number back."""
        self._group.send([self._tensor], 1, 0).wait()
        self._group.recv([self._answer], 1, 0).wait()
        if not self._answer.item():
            raise RuntimeError("the other process has ended")

    def close(self) -> None:
        """End the other process."""
        self._tensor[0] = 0.0
        self._group.send([self._tensor], 1, 0).wait()
        os.waitpid(self._pid, 0)


def _modules() -> tuple[Any, Any]:
    """torch and torch.distributed. Raises Unsupported where they are not installed."""
    try:
        return importlib.import_module("torch"), importlib.import_module("torch.distributed")
    except ImportError:
        raise Unsupported from None


def _group(distributed: Any, store: Any, rank: int) -> Any:
    return distributed.ProcessGroupGloo(store, rank, 2, TIMEOUT)


def _receive(group: Any, torch: Any, size_bytes: int) -> None:
    tensor, answer = torch.empty(size_bytes // ELEMENT_BYTES, dtype=torch.float32), torch.ones(1)
    while True:
        group.recv([tensor], 0, 0).wait()
        if not tensor[0].item():
            return
        group.send([answer], 0, 0).wait()
