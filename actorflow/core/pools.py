"""What a placement group has reserved, as the account of resources sees it: a part of the node that is lent apart."""

from __future__ import annotations

from actorflow.core.resources import GpuDevices, ResourceSet


class Pool:
    """One group's resources. `users`: queues and actors that are made to take from it, whether they do now or not."""

    __slots__ = ("devices", "filled", "leaving", "units", "users")

    def __init__(self, units: ResourceSet) -> None:
        self.units = units
        self.devices = GpuDevices(0)
        self.filled = False  # reserved
        self.leaving = False  # to be given back once it has no users
        self.users = 0

    def __repr__(self) -> str:
        return f"Pool({self.units}, filled={self.filled}, leaving={self.leaving}, users={self.users})"
