"""Ray, with its own defaults apart from the number of CPUs and the size of the object store."""

import asyncio
import logging
import shutil
import tempfile

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

    def stop(self) -> None:
        self.api.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
