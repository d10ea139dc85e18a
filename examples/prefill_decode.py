"""Disaggregated serving: one actor reads prompts (prefill), another writes the answers token by token (decode).

python examples/prefill_decode.py

A small transformer, written out below, stands for the language model. The prefill actor runs a whole prompt at once;
what it leaves, keys and values of every layer, stays with it (`tensor_transport`), and the decode actor takes that from
there: the driver only passes the ref on. While one prompt is decoded the next one is already read. The tokens are the
same as those of the model in a single process.
"""

from __future__ import annotations

import torch
from torch.nn import functional

import actorflow as af
from actorflow.util import collective

VOCABULARY, WIDTH, HEADS, LAYERS, LONGEST = 97, 64, 4, 3, 64
PROMPTS = ["disaggregated", "prefill and decode", "one actor reads", "another writes"]
NEW_TOKENS = 12

Cache = list[
    tuple[torch.Tensor, torch.Tensor]
]  # keys and values of each layer: (heads, tokens, width of a head)


class Block(torch.nn.Module):
    """A layer: causal attention over what is cached and what is new, then a network for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_network = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.projected = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.joined = torch.nn.Linear(WIDTH, WIDTH)
        self.network = torch.nn.Sequential(
            torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.GELU(), torch.nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(
        self, tokens: torch.Tensor, past: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        new = tokens.shape[0]
        by_head = self.projected(self.before_attention(tokens)).view(new, 3, HEADS, WIDTH // HEADS)
        queries, keys, values = by_head.permute(1, 2, 0, 3)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 1), torch.cat([past[1], values], 1)
        seen = keys.shape[1]
        may_see = torch.ones(new, seen, dtype=torch.bool).tril(seen - new)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=may_see)
        tokens = tokens + self.joined(mixed.permute(1, 0, 2).reshape(new, WIDTH))
        return tokens + self.network(self.before_network(tokens)), (keys, values)


class Transformer(torch.nn.Module):
    """A decoder-only transformer; every process makes the same one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.places = torch.nn.Embedding(LONGEST, WIDTH)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(LAYERS))
        self.last = torch.nn.LayerNorm(WIDTH)
        self.logits = torch.nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: list[int], cache: Cache | None = None) -> tuple[int, Cache]:
        """The most likely token after these, which come after what is cached; and the cache with them."""
        begin = 0 if cache is None else cache[0][0].shape[1]
        places = torch.arange(begin, begin + len(tokens))
        hidden = self.tokens(torch.tensor(tokens)) + self.places(places)
        grown: Cache = []
        for number, block in enumerate(self.blocks):
            hidden, past = block(hidden, None if cache is None else cache[number])
            grown.append(past)
        return int(self.logits(self.last(hidden[-1])).argmax()), grown


def encode(text: str) -> list[int]:
    return [ord(letter) % VOCABULARY for letter in text]


@torch.inference_mode()
def generate(model: Transformer, first: int, cache: Cache) -> list[int]:
    """The answer: `first`, which came out of the prompt, and the tokens behind it."""
    answer = [first]
    while len(answer) < NEW_TOKENS:
        token, cache = model([answer[-1]], cache)
        answer.append(token)
    return answer


@af.remote
class Prefill:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.model = Transformer().eval()

    @af.method(tensor_transport="gloo")
    @torch.inference_mode()
    def read(self, text: str) -> tuple[int, Cache]:
        prefilled: tuple[int, Cache] = self.model(encode(text))
        return prefilled


@af.remote
class Decode:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.model = Transformer().eval()

    def write(self, prefilled: tuple[int, Cache]) -> list[int]:
        return generate(self.model, *prefilled)


def main() -> None:
    with af.init(num_cpus=2):
        prefill, decode = Prefill.remote(), Decode.remote()
        collective.create_collective_group([prefill, decode], backend="gloo", group_name="serving")
        answers = af.get([decode.write.remote(prefill.read.remote(text)) for text in PROMPTS])

    model = Transformer().eval()
    with torch.inference_mode():
        expected = [generate(model, *model(encode(text))) for text in PROMPTS]
    for text, answer in zip(PROMPTS, answers, strict=True):
        print(f"{text!r} -> {answer}")
    assert answers == expected
    print("the tokens equal those of the model in a single process")


if __name__ == "__main__":
    main()
