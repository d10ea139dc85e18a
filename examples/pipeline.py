"""A pipeline of two actors, each with half of a model: micro-batches are in both at once.

python examples/pipeline.py

The graph is wired once. Then each micro-batch is one execution: while the second actor computes the first batch, the
first actor computes the next. Between the two the tensors go through shared memory.
"""

from __future__ import annotations

import torch

import actorflow as af

BATCHES, ROWS, WIDTH = 8, 16, 64


def make_half(seed: int) -> torch.nn.Module:
    """Half of the model, the same in every process that makes it."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, WIDTH))


@af.remote
class Stage:
    def __init__(self, seed: int) -> None:
        torch.set_num_threads(1)
        self.half = make_half(seed)
        self.batches = 0

    @torch.inference_mode()
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.batches += 1
        result: torch.Tensor = self.half(batch)
        return result

    def count(self) -> int:
        return self.batches


def main() -> None:
    torch.manual_seed(0)
    batches = [torch.randn(ROWS, WIDTH) for _ in range(BATCHES)]
    with af.init(num_cpus=2):
        first, second = Stage.remote(1), Stage.remote(2)
        with af.dag.InputNode() as inp:
            output = second.forward.bind(first.forward.bind(inp))
        with output.experimental_compile() as graph:
            refs = [graph.execute(batch) for batch in batches]
            found = [af.get(ref) for ref in refs]
        # The actors are ordinary ones: they answer calls, before, after and meanwhile.
        print("batches in each stage:", af.get([first.count.remote(), second.count.remote()]))

    with torch.inference_mode():
        model = torch.nn.Sequential(make_half(1), make_half(2))
        for batch, result in zip(batches, found, strict=True):
            torch.testing.assert_close(result, model(batch))
    print(f"{BATCHES} micro-batches went through: the results equal those of the whole model")


if __name__ == "__main__":
    main()
