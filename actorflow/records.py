"""Plain data that nobody assigns to once it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    """A dataclass that type checkers hold to be frozen.

    Python does not: what would enforce it is half of such a class's memory, which every process has, and of the time to
    make one. Records compare by their fields, and are no keys.
    """
    return dataclass(slots=True)(cls)
