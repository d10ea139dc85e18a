"""Pictures of a graph: as text, one line for each operation, and as SVG, level by level from input to outputs."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import NamedTuple

from actorflow.dag.plan import DRIVER, Constant, Graph, Input, Result, Source
from actorflow.dag.schedule import Schedule

LOCAL = "local"  # how a value travels that stays within its actor

_BOX_HEIGHT, _GAP_X, _GAP_Y, _MARGIN, _LETTER = 44, 40, 70, 20, 7.5
_COLOURS = ("#cfe2f3", "#d9ead3", "#fff2cc", "#f4cccc", "#d9d2e9", "#fce5cd", "#d0e0e3", "#ead1dc")


class Edge(NamedTuple):
    """A value on its way. `start`, `end`: operations; DRIVER: the input, or the outputs."""

    start: int
    end: int
    label: str
    transport: str


def edges(graph: Graph) -> list[Edge]:
    """Every way that a value takes, once for each operation that takes it."""
    found: dict[Edge, None] = {}
    for number, operation in enumerate(graph.operations):
        for source in operation.sources:
            if not isinstance(source, Constant):
                found[_edge(graph, source, number)] = None
    for output in graph.outputs:
        found[Edge(output, DRIVER, "", graph.transport_of(output))] = None
    return list(found)


def _edge(graph: Graph, source: Source, reader: int) -> Edge:
    if isinstance(source, Result):
        writer = graph.operations[source.operation]
        is_local = writer.actor == graph.operations[reader].actor
        return Edge(source.operation, reader, "", LOCAL if is_local else graph.transport_of(source.operation))
    access = source.access if isinstance(source, Input) else None
    return Edge(DRIVER, reader, "" if access is None else f"[{access!r}]", graph.input_kind)


def as_text(graph: Graph, plan: Schedule) -> str:
    """One line for each operation, in the order in which they run: where its values come from, and how."""
    all_edges = edges(graph)
    lines = []
    for place, number in enumerate(plan.order):
        operation = graph.operations[number]
        sources = [
            f"{_name(plan, edge.start)}{edge.label} ({edge.transport})"
            for edge in all_edges
            if edge.end == number
        ]
        lines.append(
            f"{place}: {operation.label} [actor {operation.actor}] <- {', '.join(dict.fromkeys(sources))}"
        )
    outputs = [f"{_name(plan, output)} ({graph.transport_of(output)})" for output in graph.outputs]
    return "\n".join([*lines, f"outputs <- {', '.join(outputs)}"])


def _name(plan: Schedule, number: int) -> str:
    return "input" if number == DRIVER else str(plan.order.index(number))


# -- SVG


class _Box(NamedTuple):
    x: float
    y: float
    width: float
    title: str
    below: str
    colour: str


def as_svg(graph: Graph) -> str:
    """The graph as an SVG document: a box for each operation, coloured by actor; transports on the edges."""
    all_edges = edges(graph)
    levels = _levels(all_edges)
    boxes = _placed(graph, levels)
    width = max(box.x + box.width for box in boxes.values()) + _MARGIN
    height = max(box.y for box in boxes.values()) + _BOX_HEIGHT + _MARGIN
    body = [*_drawn_edges(all_edges, boxes), *(line for box in boxes.values() for line in _drawn_box(box))]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            'font-family="sans-serif" font-size="12">',
            '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
            '<path d="M0,0 L8,4 L0,8 z"/></marker></defs>',
            *body,
            "</svg>",
        ]
    )


_INPUT, _OUTPUT = -1, -2  # boxes that are no operations


def _levels(all_edges: list[Edge]) -> dict[int, int]:
    """How far each box is from the input."""
    levels = {_INPUT: 0}
    changed = True
    while changed:  # as often as the longest way is long
        changed = False
        for edge in all_edges:
            end = _OUTPUT if edge.end == DRIVER else edge.end
            level = levels.get(edge.start if edge.start != DRIVER else _INPUT, 0) + 1
            if levels.get(end, 0) < level:
                levels[end] = level
                changed = True
    return levels


def _placed(graph: Graph, levels: dict[int, int]) -> dict[int, _Box]:
    rows: dict[int, list[int]] = {}
    for number in sorted(levels, key=lambda number: (levels[number], number)):
        rows.setdefault(levels[number], []).append(number)
    widths = {number: _width(graph, number) for number in levels}
    whole = max(sum(widths[number] + _GAP_X for number in row) for row in rows.values()) - _GAP_X
    boxes = {}
    for level, row in rows.items():
        x = _MARGIN + (whole - sum(widths[number] + _GAP_X for number in row) + _GAP_X) / 2
        for number in row:
            y = _MARGIN + level * (_BOX_HEIGHT + _GAP_Y)
            boxes[number] = _box(graph, number, x, y, widths[number])
            x += widths[number] + _GAP_X
    return boxes


def _width(graph: Graph, number: int) -> float:
    title = graph.operations[number].label if number >= 0 else "outputs"
    return max(90.0, len(title) * _LETTER + 20)


def _box(graph: Graph, number: int, x: float, y: float, width: float) -> _Box:
    if number < 0:
        return _Box(x, y, width, "input" if number == _INPUT else "outputs", "driver", "#eeeeee")
    operation = graph.operations[number]
    colour = _COLOURS[operation.actor % len(_COLOURS)]
    return _Box(x, y, width, operation.label, f"actor {operation.actor}", colour)


def _drawn_box(box: _Box) -> Iterator[str]:
    middle = box.x + box.width / 2
    yield (
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{_BOX_HEIGHT}" rx="6" '
        f'fill="{box.colour}" stroke="#555"/>'
    )
    yield f'<text x="{middle:g}" y="{box.y + 18:g}" text-anchor="middle">{escape(box.title)}</text>'
    yield (
        f'<text x="{middle:g}" y="{box.y + 35:g}" text-anchor="middle" fill="#666">{escape(box.below)}</text>'
    )


def _drawn_edges(all_edges: list[Edge], boxes: dict[int, _Box]) -> Iterator[str]:
    for edge in all_edges:
        start = boxes[_INPUT if edge.start == DRIVER else edge.start]
        end = boxes[_OUTPUT if edge.end == DRIVER else edge.end]
        x1, y1 = start.x + start.width / 2, start.y + _BOX_HEIGHT
        x2, y2 = end.x + end.width / 2, end.y
        dash = ' stroke-dasharray="4"' if edge.transport == LOCAL else ""
        yield (
            f'<path d="M{x1:g},{y1:g} C{x1:g},{y1 + 30:g} {x2:g},{y2 - 30:g} {x2:g},{y2:g}" fill="none" '
            f'stroke="#555"{dash} marker-end="url(#tip)"/>'
        )
        text = escape(f"{edge.label} {edge.transport}".strip())
        yield f'<text x="{(x1 + x2) / 2:g}" y="{(y1 + y2) / 2:g}" text-anchor="middle" fill="#06c">{text}</text>'
