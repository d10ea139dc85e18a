"""What Ray has under `experimental`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actorflow.experimental import collective

__all__ = ["collective"]

_AT_FIRST_USE = {"collective": "collective"}


def __getattr__(name: str) -> Any:
    if name not in _AT_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{_AT_FIRST_USE[name]}")
