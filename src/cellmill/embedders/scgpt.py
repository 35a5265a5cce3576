"""``scgpt``: cell vectors of an scGPT model, as its published ``embed_data`` takes them.

Source: Cui et al., Nat. Methods 2024 (https://doi.org/10.1038/s41592-024-02201-0) and
https://github.com/bowang-lab/scGPT (MIT): ``scgpt/model/model.py``, ``scgpt/tasks/cell_emb.py``.
"""

from __future__ import annotations

from typing import Literal

from cellmill.embedders.token_spec import Layers, Pool, TokenEmbedder


class ScGpt(TokenEmbedder):
    """Cell vectors of an scGPT model (`args.json`, `vocab.json`, `best_model.pt`): that of `<cls>`, of length 1."""

    kind: Literal["scgpt"] = "scgpt"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("genes", "expressions")

    @property
    def layers(self) -> Layers:
        """The last, as always."""
        return [0]

    @property
    def pool(self) -> Pool:
        return "first"
