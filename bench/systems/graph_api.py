"""Operations on compiled graphs, by the names that Ray and actorflow share."""

import importlib
from collections.abc import Callable
from typing import Any

from bench import bodies
from bench.systems.base import Operation, System, Unsupported

GET_TIMEOUT_S = 30.0


class GraphOperations(System):
    """What a system with compiled graphs can do, besides all else; its module is `api`."""

    api: Any
    api_name: str

    def _stages(self, count: int) -> list[Any]:
        stage = self.api.remote(num_cpus=0)(bodies.Stage)
        stages = [stage.remote() for _ in range(count)]
        self.api.get([stage.forward.remote(0) for stage in stages])
        return stages

    def _input(self) -> Any:
        return importlib.import_module(f"{self.api_name}.dag").InputNode()

    def _chain(self, stages: list[Any], **options: Any) -> Any:
        with self._input() as value:
            for stage in stages:
                value = stage.forward.bind(value)
        return value.experimental_compile(**options)

    def _room_for(self, size_bytes: int) -> dict[str, Any]:
        """Options of a graph without which values of that size do not fit into it."""
        return {}

    def _kill(self, actors: list[Any]) -> None:
        for actor in actors:
            self.api.kill(actor)

    def _end(self, graph: Any, stages: list[Any]) -> None:
        graph.teardown()
        self._kill(stages)

    def _sleeps(self, graph: Any) -> Callable[[], int] | None:
        """Ray's graphs do not tell."""
        sleeps: Callable[[], int] | None = getattr(graph, "sleeps", None)
        return sleeps

    def graph_chain(self, stages: int, size_bytes: int) -> Operation:
        """Each execution waits for the one before; `size_bytes` 0: two bytes."""
        members = self._stages(stages)
        graph, get = self._chain(members, **self._room_for(size_bytes)), self.api.get
        value = bodies.make_array(size_bytes) if size_bytes else bodies.SMALL

        def run() -> None:
            get(
                graph.execute(value), timeout=GET_TIMEOUT_S
            )  # and lets go of it: Ray's next execution waits for that

        return Operation(
            run,
            sleeps=self._sleeps(graph),
            close=lambda: self._end(graph, members),
        )

    def graph_await(self) -> Operation:
        members = self._stages(1)
        graph = self._chain(members)
        return Operation(
            lambda: graph.execute(bodies.SMALL),
            is_async=True,
            sleeps=self._sleeps(graph),
            close=lambda: self._end(graph, members),
        )

    def graph_pipeline(self, stages: int, in_flight: int) -> Operation:
        members = self._stages(stages)
        graph, get = self._chain(members), self.api.get

        def run() -> None:
            refs = [graph.execute(bodies.SMALL) for _ in range(in_flight)]
            for ref in refs:
                get(ref, timeout=GET_TIMEOUT_S)

        return Operation(run, sleeps=self._sleeps(graph), close=lambda: self._end(graph, members))

    def graph_compile(self, stages: int) -> Operation:
        members = self._stages(stages)

        def compile_and_run() -> Any:
            graph = self._chain(members)
            self.api.get(graph.execute(bodies.SMALL), timeout=GET_TIMEOUT_S)
            return graph

        return Operation(
            compile_and_run,
            after=lambda graph: graph.teardown(),
            close=lambda: self._kill(members),
        )

    def graph_fan_out(self, branches: int) -> Operation:
        members = self._stages(branches + 1)
        *workers, last = members
        with self._input() as value:
            gathered = last.gather.bind(*[worker.forward.bind(value) for worker in workers])
        graph, get = gathered.experimental_compile(), self.api.get
        return Operation(
            lambda: get(graph.execute(bodies.SMALL), timeout=GET_TIMEOUT_S),
            sleeps=self._sleeps(graph),
            close=lambda: self._end(graph, members),
        )

    def graph_gloo(self, size_bytes: int) -> Operation:
        """A tensor of float32 from one actor to another."""
        try:
            tensor_bodies = importlib.import_module("bench.tensor_bodies")
        except ImportError:
            raise Unsupported from None
        stage = self.api.remote(num_cpus=0)(tensor_bodies.TensorStage)
        members = [stage.remote(size_bytes // 4) for _ in range(2)]
        with self._input() as value:
            tensor = members[0].give.bind(value).with_tensor_transport("gloo")
            taken = members[1].take.bind(tensor)
        graph, get = taken.experimental_compile(), self.api.get
        return Operation(
            lambda: get(graph.execute(0), timeout=GET_TIMEOUT_S), close=lambda: self._end(graph, members)
        )
