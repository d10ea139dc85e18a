"""actorflow, with its own defaults apart from the number of CPUs and the size of the object store."""

import asyncio

from bench.systems.core_api import CoreApiSystem

OBJECT_STORE_BYTES = 4_000_000_000


class ActorflowSystem(CoreApiSystem):
    """A private node, or a second driver on it."""

    def __init__(self, name: str, cpus: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name, cpus, loop, "actorflow")

    def start(self) -> None:
        self.api.init(num_cpus=self.cpus, object_store_memory=OBJECT_STORE_BYTES)
        self.first_result()

    def attach(self, address: str) -> None:
        self.api.init(address=address)
        self.first_result()

    def address(self) -> str:
        return "auto"

    def stop(self) -> None:
        self.api.shutdown()
