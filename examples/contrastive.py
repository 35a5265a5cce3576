"""Cells and their captions in one space, with the negatives of the export: ``python examples/contrastive.py``.

A cell is its sentence, a bag of gene names; a caption is a bag of words.
A cell should be nearer to its own caption than to those of the other cells in the batch and of its negatives
(InfoNCE, van den Oord et al. 2018, arXiv:1807.03748).
"""

from __future__ import annotations

import argparse
from itertools import chain

import torch
from torch import nn

from cellmill.torch import CellStream, Columns, Sequential


class Words:
    """Words to numbers; 0 is a word that was not seen in training."""

    def __init__(self, texts: list[str]) -> None:
        self.number = {word: i + 1 for i, word in enumerate(sorted({w for text in texts for w in text.split()}))}

    def bags(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers end to end, and where each text begins: what ``nn.EmbeddingBag`` takes."""
        found = [[self.number.get(word, 0) for word in text.split()] for text in texts]
        begins = torch.tensor([0, *(len(f) for f in found)]).cumsum(0)[:-1]
        return torch.tensor(list(chain(*found)), dtype=torch.int64), begins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export", default="results/pbmc68k/hf/multiplets")
    parser.add_argument("--epochs", type=int, default=8)
    asked = parser.parse_args()
    torch.manual_seed(0)

    # `negative_1` is the caption of a cell of the same split that has another one.
    contents = Columns(["cell_sentence_1", "positive", "negative_1"])
    train = CellStream(f"{asked.export}/train", batch_size=64, contents=contents)
    test = CellStream(f"{asked.export}/test", batch_size=64, contents=contents, sampler=Sequential())
    seen = list(train)
    genes = Words([text for batch in seen for text in batch["cell_sentence_1"]])
    words = Words([text for batch in seen for text in batch["positive"]])
    cells, captions = (nn.EmbeddingBag(len(w.number) + 1, 32, mode="mean") for w in (genes, words))
    scale = nn.Parameter(torch.tensor(2.0))
    optimizer = torch.optim.AdamW([*cells.parameters(), *captions.parameters(), scale], lr=3e-2)

    def of_cells(texts: list[str]) -> torch.Tensor:
        return nn.functional.normalize(cells(*genes.bags(texts)), dim=1)

    def of_captions(texts: list[str]) -> torch.Tensor:
        return nn.functional.normalize(captions(*words.bags(texts)), dim=1)

    def correct() -> float:
        """How often a test cell is nearer to its caption than to that of its negative."""
        right = []
        with torch.no_grad():
            for batch in test:
                cell = of_cells(batch["cell_sentence_1"])
                near = [(cell * of_captions(batch[name])).sum(1) for name in ("positive", "negative_1")]
                right.append(near[0] > near[1])
        return float(torch.cat(right).float().mean())

    print(f"before: {correct():.3f} of test cells are nearer to their caption")
    loader = train.loader()
    for epoch in range(asked.epochs):
        for batch in loader:
            near = of_cells(batch["cell_sentence_1"]) @ of_captions(batch["positive"] + batch["negative_1"]).T
            own = torch.arange(len(near))
            # The same caption in another row is no negative.
            texts = batch["positive"] + batch["negative_1"]
            same = torch.tensor([[a == b for b in texts] for a in batch["positive"]])
            same[own, own] = False
            loss = nn.functional.cross_entropy((near * scale.exp()).masked_fill(same, -1e9), own)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: {correct():.3f}")


if __name__ == "__main__":
    main()
