"""Where calls may run, apart from resources: on which node, on nodes with which labels. Pure decisions.

A requirement is a mapping, as it travels: {"node": (node id, soft)}, {"labels": ((name, operator, values), ...)},
{"selector": ((name, text), ...)}, and {"group": ...}, which is the placement groups' (core/placement.py). What may be
satisfied elsewhere ("soft") never keeps a call from the only node that there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Where = Mapping[str, Any]


def why_not_here(where: Where, node_id: str, labels: Mapping[str, str]) -> str | None:
    """Why calls with this requirement can never run on the node, or None when they can. It is the only one."""
    if "node" in where:
        wanted, soft = where["node"]
        if wanted != node_id and not soft:
            return f"it is to run on node {wanted}, and there is only node {node_id}"
    expressions = [tuple(expression) for expression in where.get("labels", ())]
    expressions += [parsed(name, text) for name, text in where.get("selector", ())]
    for name, operator, values in expressions:
        if not matches(labels.get(name), operator, values):
            has = repr(labels[name]) if name in labels else "none"
            wants = f"{operator}({', '.join(map(repr, values))})"
            return f"it is to run where label {name!r} is {wants}, and the only node's is {has}"
    return None


def matches(value: str | None, operator: str, values: Sequence[str]) -> bool:
    """Whether a node's label (None: it has none of that name) is as wanted."""
    if operator == "exists":
        return value is not None
    if operator == "!exists":
        return value is None
    return (value in values) == (operator == "in")


def parsed(name: str, text: str) -> tuple[str, str, tuple[str, ...]]:
    """A label selector's text as an expression: "v", "!v", "in(v, w)", "!in(v, w)"."""
    sign, text = ("!", text[1:]) if text.startswith("!") else ("", text)
    if text.startswith("in(") and text.endswith(")"):
        return name, f"{sign}in", tuple(value.strip() for value in text[3:-1].split(","))
    return name, f"{sign}in", (text,)
