"""Vectors of models against the published rule, restated plainly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellmill.contracts import embedding
from cellmill.embedders import Geneformer
from cellmill.embedders.embed_tokens import embed_tokens

from ..unit.models import cells_of, geneformer_config, save_model, write_tokens
from .slow_embeddings import slow_geneformer

VOCABULARY = 60
LENGTHS = [3, 17, 128, 64, 5, 33, 90, 4, 128, 17]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


@pytest.mark.parametrize(("mode", "special"), [("cell", False), ("cell", True), ("cls", True)], ids=["V1", "V2", "cls"])
@pytest.mark.parametrize("emb_layer", [0, -1, -3])
def test_vectors_are_those_of_the_published_rule(tmp_path: Path, mode: str, emb_layer: int, special: bool) -> None:
    """Last layer, the one before it, and the embeddings alone; with and without <cls> and <eos>."""
    model = save_model(tmp_path / "model", geneformer_config(VOCABULARY))
    cells = cells_of(LENGTHS, VOCABULARY, special=special)
    files = write_tokens(tmp_path, cells, VOCABULARY, special=special)
    spec = Geneformer(tokenizer="t", model=str(model), pooling=mode, layers=[emb_layer])
    embed_tokens(**files, spec=spec, out=tmp_path / "p.npy", manifest=tmp_path / "p.json")
    found = np.asarray(embedding.read(tmp_path / "p.npy"))
    expected = slow_geneformer(model, cells, mode=mode, emb_layer=emb_layer, special=special)
    assert cosines(found, expected).min() >= 0.9999
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)
