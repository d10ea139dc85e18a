"""The systems that are measured."""

from bench.systems.base import Operation, System, Unsupported
from bench.systems.registry import SYSTEMS, SystemSpecification, installed_version, load_system

__all__ = [
    "SYSTEMS",
    "Operation",
    "System",
    "SystemSpecification",
    "Unsupported",
    "installed_version",
    "load_system",
]
