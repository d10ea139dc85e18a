"""actorflow, with its own defaults apart from the number of CPUs and the size of the object store."""

import asyncio
import importlib
import subprocess
import sys
from typing import Any

from bench import bodies
from bench.systems.base import Operation
from bench.systems.core_api import CoreApiSystem

OBJECT_STORE_BYTES = 4_000_000_000
_COMMAND = [sys.executable, "-m", "actorflow.cli"]


SLOTS = 2
SLOT_BYTES = 1_000


class Relay:
    """An actor that reads a channel and writes the same to another, until the first is closed."""

    def relay(self, source: Any, target: Any) -> None:
        core = importlib.import_module("actorflow._hot")
        reader, writer = core.Reader(source, 0), core.Writer(target)
        try:
            while True:
                writer.write(reader.read())
        except core.ChannelClosed:
            reader.close()
            writer.close()


class ActorflowSystem(CoreApiSystem):
    """A private node, or one that several drivers share."""

    def __init__(self, name: str, cpus: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name, cpus, loop, "actorflow")
        self._shared_node: str | None = None

    def start(self) -> None:
        self.api.init(num_cpus=self.cpus, object_store_memory=OBJECT_STORE_BYTES, log_to_driver=False)
        self.first_result()

    def start_shared(self) -> None:
        sizes = ["--num-cpus", str(self.cpus), "--object-store-memory", str(OBJECT_STORE_BYTES)]
        done = subprocess.run([*_COMMAND, "start", *sizes], check=True, stdout=subprocess.PIPE, text=True)
        self._shared_node = done.stdout.strip()
        self.attach(self._shared_node)

    def attach(self, address: str) -> None:
        self.api.init(address=address, log_to_driver=False)
        self.first_result()

    def address(self) -> str:
        if self._shared_node is None:
            raise RuntimeError("a private node has no address")
        return self._shared_node

    def channel_echo(self) -> Operation:
        core = importlib.import_module("actorflow._hot")
        there, back = (core.channel_create(SLOTS, SLOT_BYTES, 1) for _ in range(2))
        ended = self.api.remote(num_cpus=0)(Relay).remote().relay.remote(there, back)
        writer, reader = core.Writer(there), core.Reader(back, 0)

        def call() -> object:
            writer.write(bodies.SMALL)
            return reader.read()

        def close() -> None:
            writer.close()
            self.api.get(ended)
            reader.close()

        return Operation(call, close=close)

    def stop(self) -> None:
        self.api.shutdown()
        if self._shared_node is not None:
            subprocess.run([*_COMMAND, "stop", self._shared_node], check=True, stdout=subprocess.DEVNULL)
