"""Members of a compiled graph between which tensors travel. Needs torch."""

from __future__ import annotations

import torch


class TensorStage:
    """Makes tensors, or takes them."""

    def __init__(self, elements: int) -> None:
        self._tensor = torch.ones(elements, dtype=torch.float32)

    def give(self, _: object) -> torch.Tensor:
        return self._tensor

    def take(self, tensor: torch.Tensor) -> int:
        return len(tensor)
