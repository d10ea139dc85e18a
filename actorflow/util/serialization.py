"""Tells in advance whether a value can travel, and which of its members cannot."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from actorflow.wire import pickling
from actorflow.wire.inspect import Culprit


def inspect_serializability(
    value: Any, name: str | None = None, print_file: TextIO | None = None
) -> tuple[bool, set[Culprit]]:
    """(whether `value` can be passed to calls, the members that cannot).

    `name`: what the value is called in the result; by default its own name, or "value". What was found is
    written to `print_file`, by default standard output. The search stops at the first member that is to blame.
    """
    title = name or getattr(value, "__name__", None) or "value"
    culprit = pickling.culprit_in([(title, value)])
    file = print_file if print_file is not None else sys.stdout
    if culprit is None:
        print(f"{title} can be pickled", file=file)
        return True, set()
    print(f"{culprit.path} (type {culprit.type_name}) cannot be pickled: {culprit.reason}", file=file)
    return False, {culprit}
