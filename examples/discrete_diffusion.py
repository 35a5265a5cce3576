"""A discrete diffusion transformer over binned counts of variable genes: ``python examples/discrete_diffusion.py``.

A cell is one token per variable gene, the bin of its count.
Training hides a random share of the tokens, and the model says what they were; drawing starts with all hidden and
uncovers them in a few steps (absorbing-state diffusion, Austin et al. 2021, arXiv:2107.03006).
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import nn

from cellmill.torch import CellStream, Counts, variable_genes

EDGES = torch.tensor([1, 2, 3, 5, 10, 50])
N_BINS = len(EDGES) + 1
HIDDEN = N_BINS


class Denoiser(nn.Module):
    """Bins with some hidden (cells, genes) to a score for every bin of every gene."""

    def __init__(self, n_genes: int, width: int = 48, layers: int = 2) -> None:
        super().__init__()
        self.bins, self.genes = nn.Embedding(N_BINS + 1, width), nn.Parameter(torch.randn(n_genes, width) * 0.1)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Linear(width, N_BINS)
        self.usual = nn.Parameter(torch.zeros(n_genes, N_BINS))

    def forward(self, bins: torch.Tensor) -> torch.Tensor:
        return self.out(self.encoder(self.bins(bins) + self.genes)) + self.usual


def loss_of(model: nn.Module, counts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Cross entropy of the hidden bins, each cell weighted by 1 / its hidden share: the bound of the likelihood."""
    bins = torch.bucketize(counts, EDGES, right=True)
    share = torch.rand(len(bins), 1, generator=generator) * 0.95 + 0.05
    hidden = torch.rand(bins.shape, generator=generator) < share
    scores = model(bins.masked_fill(hidden, HIDDEN))
    losses = nn.functional.cross_entropy(scores.transpose(1, 2), bins, reduction="none")
    return (losses * hidden / share).mean()


@torch.no_grad()
def draw(model: nn.Module, n_cells: int, n_genes: int, *, steps: int = 8) -> torch.Tensor:
    """New cells (n_cells, n_genes) as bins, uncovered at random in ``steps``."""
    bins = torch.full((n_cells, n_genes), HIDDEN)
    order = torch.rand(bins.shape)
    for step in range(steps):
        guess = torch.distributions.Categorical(logits=model(bins)).sample()
        now = (bins == HIDDEN) & (order < (step + 1) / steps)
        bins = torch.where(now, guess, bins)
    return torch.where(bins == HIDDEN, guess, bins)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", default="results/pbmc68k")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--genes", type=int, default=64)
    asked = parser.parse_args()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)

    genes = variable_genes(f"{asked.results}/genes/genes.parquet", asked.genes)
    contents = Counts(layout="dense", genes=genes)
    cells = CellStream(f"{asked.results}/scdl/counts/train", batch_size=32, contents=contents).loader()
    model = Denoiser(len(genes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    print(f"{len(genes)} variable genes in {N_BINS} bins; guessing costs {math.log(N_BINS):.3f} per gene")
    for epoch in range(asked.epochs):
        losses = []
        for batch in cells:
            loss = loss_of(model, batch["counts"], generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}")
    seen = torch.cat([torch.bucketize(batch["counts"], EDGES, right=True) for batch in cells])
    made = draw(model, 200, len(genes))
    print(
        f"genes with a count: {(seen > 0).float().mean():.3f} of real cells, {(made > 0).float().mean():.3f} of drawn"
    )


if __name__ == "__main__":
    main()
