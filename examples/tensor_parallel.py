"""Tensor parallelism: a layer that is split over two actors, whose partial results an allreduce joins.

python examples/tensor_parallel.py

The hidden layer of a small network is cut in two: each actor has half of its rows, and the matching half of the
columns of the layer behind it. So each computes a part of the output without the other; their sum is the output.
The sum is a node of the graph: it goes from actor to actor (gloo here; NCCL between GPUs).
"""

from __future__ import annotations

import torch

import actorflow as af

ACTORS, WIDTH, HIDDEN = 2, 32, 128


def make_weights() -> tuple[torch.Tensor, torch.Tensor]:
    """The whole layers, the same in every process that makes them."""
    generator = torch.Generator().manual_seed(0)
    up = torch.randn(HIDDEN, WIDTH, generator=generator)
    down = torch.randn(WIDTH, HIDDEN, generator=generator)
    return up, down


@af.remote
class Shard:
    def __init__(self, rank: int) -> None:
        torch.set_num_threads(1)
        up, down = make_weights()
        self.up = up.chunk(ACTORS, dim=0)[rank].clone()
        self.down = down.chunk(ACTORS, dim=1)[rank].clone()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        part: torch.Tensor = torch.relu(batch @ self.up.T) @ self.down.T
        return part

    def normalize(self, total: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = total / total.norm(dim=-1, keepdim=True)
        return result


def main() -> None:
    torch.manual_seed(1)
    batches = [torch.randn(8, WIDTH) for _ in range(4)]
    with af.init(num_cpus=2):
        shards = [Shard.remote(rank) for rank in range(ACTORS)]
        with af.dag.InputNode() as inp:
            parts = [shard.forward.bind(inp) for shard in shards]
            totals = af.dag.allreduce.bind(parts)
            outputs = [shard.normalize.bind(total) for shard, total in zip(shards, totals, strict=True)]
            graph = af.dag.MultiOutputNode(outputs).experimental_compile()
        found = [af.get(graph.execute(batch)) for batch in batches]
        graph.teardown()

    up, down = make_weights()
    for batch, results in zip(batches, found, strict=True):
        whole = torch.relu(batch @ up.T) @ down.T
        for result in results:
            torch.testing.assert_close(result, whole / whole.norm(dim=-1, keepdim=True))
    print(f"{len(batches)} batches over {ACTORS} actors: each has the result of the whole layers")


if __name__ == "__main__":
    main()
