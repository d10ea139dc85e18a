"""Ray, with its own defaults apart from the number of CPUs and the size of the object store."""

import asyncio
import logging
import shutil
import tempfile
from typing import Any

from bench.systems.core_api import CoreApiSystem

OBJECT_STORE_BYTES = 4_000_000_000


class RaySystem(CoreApiSystem):
    """A local Ray instance of its own: never one that runs on the machine already."""

    def __init__(self, name: str, cpus: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name, cpus, loop, "ray")
        self._folder: str | None = None

    def start(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray")
        self.api.init(
            address="local",
            num_cpus=self.cpus,
            object_store_memory=OBJECT_STORE_BYTES,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=self._folder,
        )
        self.first_result()

    def attach(self, address: str) -> None:
        self.api.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        self.first_result()

    def address(self) -> str:
        return str(self.api.get_runtime_context().gcs_address)

    def _room_for(self, size_bytes: int) -> dict[str, Any]:
        """Its channels hold 1 MB by default, and an execution with more never ends."""
        return {"_buffer_size_bytes": 2 * size_bytes} if size_bytes else {}

    def _end(self, graph: Any, stages: list[Any]) -> None:
        """Without teardown(), which may never return; a graph whose actors have died ends by itself."""
        self._kill(stages)

    def stop(self) -> None:
        self.api.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
