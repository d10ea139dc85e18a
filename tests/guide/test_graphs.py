"""Ray's compiled graphs, as small programs of a port: only the import differs."""

from __future__ import annotations

from typing import Any

import pytest

import actorflow as ray
from actorflow.dag import InputNode, MultiOutputNode

pytestmark = pytest.mark.usefixtures("runtime")


@ray.remote(num_cpus=0)
class Worker:
    def __init__(self, factor: int = 1) -> None:
        self.factor = factor

    def forward(self, value: int) -> int:
        return value * self.factor

    def combine(self, left: int, right: int) -> int:
        return left + right


def test_bind_compile_execute_teardown() -> None:
    first, second = Worker.remote(2), Worker.remote(3)
    with InputNode() as inp:
        dag: Any = first.forward.bind(inp)
        dag = second.forward.bind(dag)
    assert ray.get(dag.execute(1)) == 6
    compiled = dag.experimental_compile(_submit_timeout=10, _buffer_size_bytes=1_000_000)
    for value in range(3):
        assert ray.get(compiled.execute(value)) == value * 6
    compiled.teardown()


def test_several_inputs_and_outputs() -> None:
    first, second = Worker.remote(2), Worker.remote(3)
    with InputNode() as inp:
        left = first.forward.bind(inp[0])
        right = second.forward.bind(inp.other)
        dag = MultiOutputNode([left, second.combine.bind(left, right)])
    compiled = dag.experimental_compile(_max_inflight_executions=2)
    assert ray.get(compiled.execute(1, other=10)) == [2, 32]
    compiled.teardown(kill_actors=True)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(first.forward.remote(1))


async def test_enable_asyncio() -> None:
    worker = Worker.remote(2)
    with InputNode() as inp:
        dag = worker.forward.bind(inp)
    compiled = dag.experimental_compile(enable_asyncio=True)
    future = await compiled.execute_async(4)
    assert await future == 8
    compiled.teardown()


def test_errors_under_rays_names() -> None:
    worker = Worker.remote()
    with InputNode() as inp:
        compiled = worker.forward.bind(inp).experimental_compile(_max_inflight_executions=1)
    ref = compiled.execute(1)
    with pytest.raises(ray.exceptions.RayCgraphCapacityExceeded):
        compiled.execute(2)
    assert ray.get(ref) == 1
    compiled.teardown()
    with pytest.raises(ray.exceptions.RayChannelError):
        compiled.execute(3)
