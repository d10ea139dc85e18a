"""Pictures of graphs: what is on them, and that nothing lies on anything else."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree

from actorflow.dag.drawing import as_svg, as_text
from actorflow.dag.plan import Constant, Graph, Input, Operation, Result, TensorTransport
from actorflow.dag.schedule import schedule

SVG = "{http://www.w3.org/2000/svg}"
GRAPH = Graph(
    (
        Operation(0, "A.split", "split", (Input(0), Constant(5)), transport=TensorTransport("gloo")),
        Operation(1, "B<T>.left", "left", (Result(0), Input("scale"))),
        Operation(2, "C.right", "right", (Result(0),)),
        Operation(0, "A.join", "join", (Result(1), Result(2), Result(0))),
    ),
    (3, 1),
    is_list=True,
)


def test_text() -> None:
    assert as_text(GRAPH, schedule(GRAPH)).splitlines() == [
        "0: A.split [actor 0] <- input[0] (auto)",
        "1: B<T>.left [actor 1] <- 0 (gloo), input['scale'] (auto)",
        "2: C.right [actor 2] <- 0 (gloo)",
        "3: A.join [actor 0] <- 1 (auto), 2 (auto), 0 (local)",
        "outputs <- 3 (auto), 1 (auto)",
    ]


def test_svg_has_a_box_for_each_operation_and_the_transports_on_its_edges() -> None:
    picture = ElementTree.fromstring(as_svg(GRAPH))
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    for wanted in (
        "input",
        "outputs",
        "A.split",
        "B<T>.left",
        "C.right",
        "A.join",
        "actor 2",
        "['scale'] auto",
    ):
        assert wanted in texts
    assert texts.count("gloo") == 2
    assert texts.count("local") == 1
    paths = [path for path in picture.iter(f"{SVG}path") if path.get("marker-end")]
    assert len(paths) == 9


def test_boxes_lie_apart_and_inside() -> None:
    picture = ElementTree.fromstring(as_svg(GRAPH))
    boxes = [
        tuple(float(box.get(name, "")) for name in ("x", "y", "width", "height"))
        for box in picture.iter(f"{SVG}rect")
    ]
    assert len(boxes) == 6
    for (x1, y1, width1, height1), (x2, y2, width2, height2) in itertools.combinations(boxes, 2):
        apart = x1 + width1 <= x2 or x2 + width2 <= x1 or y1 + height1 <= y2 or y2 + height2 <= y1
        assert apart
    width, height = float(picture.get("width", "")), float(picture.get("height", ""))
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)
