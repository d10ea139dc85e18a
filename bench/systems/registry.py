"""Which systems there are, and where each one's code is."""

import asyncio
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.systems.base import System


@dataclass(frozen=True)
class SystemSpecification:
    """Where a system's code is: the package that must be installed (None: nothing), and what runs it."""

    title: str
    package: str | None
    module: str
    class_name: str
    environment: Mapping[str, str] = field(default_factory=dict)


_ACTORFLOW = ("actorflow", "bench.systems.actorflow_system", "ActorflowSystem")

SYSTEMS: dict[str, SystemSpecification] = {
    "actorflow": SystemSpecification("actorflow", *_ACTORFLOW),
    "actorflow_nospin": SystemSpecification("spinning off", *_ACTORFLOW, {"ACTORFLOW_SPIN_US": "0"}),
    "ray": SystemSpecification("Ray", "ray", "bench.systems.ray_system", "RaySystem"),
    "dask": SystemSpecification("Dask", "distributed", "bench.systems.dask_system", "DaskSystem"),
    "xoscar": SystemSpecification("xoscar", "xoscar", "bench.systems.xoscar_system", "XoscarSystem"),
    "limit": SystemSpecification("limit", None, "bench.systems.limit_system", "LimitSystem"),
}


def installed_version(name: str) -> str | None:
    """Return the version of a system's package, "" where it needs none, None when not installed."""
    package = SYSTEMS[name].package
    if package is None:
        return ""
    if importlib.util.find_spec(package) is None:
        return None
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(source tree)"


def load_system(name: str, cpus: int, loop: asyncio.AbstractEventLoop) -> System:
    """Import a system's code and return it, not started. Raises KeyError for an unknown name."""
    specification = SYSTEMS[name]
    factory: type[System] = getattr(importlib.import_module(specification.module), specification.class_name)
    return factory(name, cpus, loop)
