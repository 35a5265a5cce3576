"""How much of the cell type is in an embedding: a linear layer on top of it. ``python examples/linear_probe.py``."""

from __future__ import annotations

import argparse
from collections import Counter

import torch
from torch import nn

from cellmill.torch import CellStream, Columns, Sequential


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export", default="results/pbmc68k/hf/cells")
    parser.add_argument("--embedding", default="embedding_pca")
    parser.add_argument("--label", default="bulk_labels")
    parser.add_argument("--epochs", type=int, default=20)
    asked = parser.parse_args()
    torch.manual_seed(0)

    contents = Columns([asked.embedding])
    train = CellStream(f"{asked.export}/train", contents=contents, obs=[asked.label])
    # The codes of the labels are those of the training split, whichever labels another split has.
    labels = train.categories(asked.label)
    test = CellStream(f"{asked.export}/test", contents=contents, sampler=Sequential(), obs={asked.label: labels})
    vectors = torch.cat([batch[asked.embedding] for batch in train])
    mean, sd = vectors.mean(0), vectors.std(0) + 1e-6
    probe = nn.Linear(vectors.shape[1], len(labels))
    optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-2, weight_decay=1e-2)
    loader = train.loader()
    for _ in range(asked.epochs):
        for batch in loader:
            scores = probe((batch[asked.embedding] - mean) / sd)
            loss = nn.functional.cross_entropy(scores, batch[asked.label], ignore_index=-1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    usual = Counter(train.obs(asked.label).values.tolist()).most_common(1)[0][0]
    right = guessed = cells = 0
    with torch.no_grad():
        for batch in test:
            found = probe((batch[asked.embedding] - mean) / sd).argmax(1)
            right += int((found == batch[asked.label]).sum())
            guessed += int((batch[asked.label] == usual).sum())
            cells += len(found)
    print(f"{cells} test cells: {right / cells:.3f} right, {guessed / cells:.3f} by the most frequent label")


if __name__ == "__main__":
    main()
