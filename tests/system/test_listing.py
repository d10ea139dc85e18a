"""What `actorflow.observe.objects.list_objects` tells: who holds what, and what made it where."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow.observe.objects import list_objects
from tests.system.bodies import Counter, zeros

BYTES = 1_000_000


@af.remote
class Maker:
    def make(self) -> Any:
        return np.ones(BYTES, np.uint8)

    def put(self) -> list[Any]:
        self.kept = af.put(np.ones(BYTES, np.uint8))
        return [self.kept]

    def pid(self) -> int:
        return os.getpid()


@af.remote
def put_inside() -> list[Any]:
    return [af.put(np.ones(BYTES, np.uint8))]


def rows_of(ref: Any) -> list[dict[str, Any]]:
    return [row for row in list_objects() if row["object_id"] == ref.hex()]


@pytest.mark.usefixtures("runtime")
def test_who_made_and_holds_what() -> None:
    mine = af.put(np.ones(BYTES, np.uint8))
    view = af.get(mine)
    again = af.put([mine])
    (row,) = rows_of(mine)
    me = {"pid": os.getpid(), "role": "driver", "job": row["holders"][0]["job"]}
    assert row["holders"] == [{**me, "references": 1, "views": 1}]
    assert (row["made_by"], row["how"], row["made_in"]) == ("put", "put", me)
    assert (row["state"], row["held_inside"]) == ("memory", 1)
    assert BYTES < row["size_bytes"] < BYTES + 1000
    del view, again

    result = zeros.remote(BYTES)
    af.wait([result])
    (row,) = rows_of(result)
    assert (row["made_by"], row["how"], row["made_in"]["role"]) == ("zeros", "result", "worker")

    (inside,) = af.get(put_inside.remote())
    (row,) = rows_of(inside)
    assert (row["made_by"], row["how"]) == ("put_inside", "put")

    maker = Maker.remote()
    pid = af.get(maker.pid.remote())
    made = maker.make.remote()
    (kept,) = af.get(maker.put.remote())
    af.wait([made])
    (row,) = rows_of(made)
    assert (row["made_by"], row["how"], row["made_in"]["pid"]) == ("Maker.make", "result", pid)
    (row,) = rows_of(kept)
    assert (row["made_by"], row["how"]) == ("Maker.put", "put")
    assert {holder["pid"]: holder["references"] for holder in row["holders"]} == {os.getpid(): 1, pid: 1}
    sizes = [row["size_bytes"] for row in list_objects()]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) >= 5


@pytest.mark.usefixtures("runtime")
def test_arguments_and_the_dead() -> None:
    counter = Counter.remote()
    af.get(counter.note.remote(np.ones(BYTES, np.uint8)))
    (row,) = [row for row in list_objects() if row["size_bytes"] > BYTES]
    assert row["object_id"] is None
    (holder,) = row["holders"]
    assert (holder["pid"], holder["views"]) == (af.get(counter.pid.remote()), 1)
    maker = Maker.remote()
    made = maker.make.remote()
    af.wait([made])
    af.kill(maker)
    (row,) = rows_of(made)
    assert row["made_in"] is None
