"""Tells in advance whether a value can travel, and which of its members cannot."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from actorflow.wire import pickling
from actorflow.wire.inspect import DEPTH_LIMIT, Culprit
from actorflow.wire.pickling import deregister_serializer, register_serializer


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = DEPTH_LIMIT, print_file: TextIO | None = None
) -> tuple[bool, set[Culprit]]:
    """(whether `base_obj` can be passed to calls, the members that cannot).

    `name`: what it is called in the result; by default its own name, or "value". `depth`: members inside
    members to look at, at most 32. What was found is written to `print_file`, by default standard output. Each
    member has `obj`, `parent`, `path`, `type_name` and `reason`. The search stops at the first that is to blame.
    Raises ValueError for a depth below 1.
    """
    if depth < 1:
        raise ValueError(f"depth={depth} must be at least 1")
    title = name or getattr(base_obj, "__name__", None) or "value"
    culprit = pickling.culprit_in([(title, base_obj)], depth)
    file = print_file if print_file is not None else sys.stdout
    if culprit is None:
        print(f"{title} can be pickled", file=file)
        return True, set()
    print(f"{culprit.path} (type {culprit.type_name}) cannot be pickled: {culprit.reason}", file=file)
    return False, {culprit}


__all__ = ["deregister_serializer", "inspect_serializability", "register_serializer"]
