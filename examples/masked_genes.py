"""A small transformer that guesses masked genes, trained from tokens: ``python examples/masked_genes.py``."""

from __future__ import annotations

import argparse
import math

import torch
from torch import nn

from cellmill.torch import CellStream, Sequential, Tokens

MASK, PAD, IGNORED = 1, 0, -100


class MaskedGenes(nn.Module):
    """Tokens (cells, length) to a score for every token of the vocabulary at every place."""

    def __init__(self, n_tokens: int, width: int = 48, layers: int = 2, max_len_tokens: int = 96) -> None:
        super().__init__()
        self.genes, self.ranks = nn.Embedding(n_tokens, width), nn.Embedding(max_len_tokens, width)
        nn.init.normal_(self.genes.weight, std=0.05)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.bias = nn.Parameter(torch.zeros(n_tokens))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.genes(tokens) + self.ranks(torch.arange(tokens.shape[1], device=tokens.device))
        return self.encoder(x, src_key_padding_mask=~mask) @ self.genes.weight.T + self.bias


def masked(tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """15 % of the genes hidden; the targets are those, and nothing elsewhere."""
    hidden = (torch.rand(tokens.shape, generator=generator) < 0.15) & mask & (tokens > MASK)
    return tokens.masked_fill(hidden, MASK), tokens.masked_fill(~hidden, IGNORED)


def loss_of(model: nn.Module, batch: dict, generator: torch.Generator) -> torch.Tensor:
    inputs, targets = masked(batch["input_ids"], batch["attention_mask"], generator)
    scores = model(inputs, batch["attention_mask"])
    return nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export", default="results/pbmc68k/hf/cells")
    parser.add_argument("--epochs", type=int, default=4)
    asked = parser.parse_args()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)

    contents = Tokens(max_len_tokens=96)
    train = CellStream(f"{asked.export}/train", batch_size=32, contents=contents).loader()
    val = CellStream(f"{asked.export}/val", batch_size=32, contents=contents, sampler=Sequential())
    n_tokens = 1 + max(int(batch["input_ids"].max()) for batch in train)
    model = MaskedGenes(n_tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def validate() -> float:
        model.eval()
        with torch.no_grad():
            same = torch.Generator().manual_seed(1)
            return float(torch.stack([loss_of(model, batch, same) for batch in val]).mean())

    print(f"before: validation loss {validate():.3f}, that of guessing {math.log(n_tokens):.3f}")
    for epoch in range(asked.epochs):
        model.train()
        for batch in train:
            loss = loss_of(model, batch, generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: validation loss {validate():.3f}")


if __name__ == "__main__":
    main()
