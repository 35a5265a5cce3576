"""Our MDS shards in a collator that asks of a sample what Tahoe-x1's asks.

The contract, as its training code reads it: `genes` is a tensor of one dimension or a list, `expressions` the same
with floats (a quantile is taken of it) and as long; the first element is `<cls>` with the value for padding, and at
least one gene follows. Other columns are ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from cellmill.exports import mds
from cellmill.exports.given import Given
from cellmill.exports.mds import MdsTokens

from .export_rows import make_rows, new_folder
from .test_export_mds import with_tahoe

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PAD, PAD_VALUE, MASK_VALUE, BINS = 0, -2.0, -1.0, 51


class Collator:
    """Pads, cuts, bins and masks as the contract says; written from the contract alone."""

    def __init__(self, max_length: int, mlm_probability: float = 0.3, keep_first: int = 1) -> None:
        self.max_length, self.mlm_probability, self.keep_first = max_length, mlm_probability, keep_first
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        cells = [self.cell(e["genes"], e["expressions"]) for e in examples]
        length = min(max(len(genes) for genes, _ in cells), self.max_length)
        genes = torch.full((len(cells), length), PAD, dtype=torch.int64)
        raw = torch.full((len(cells), length), PAD_VALUE, dtype=torch.float32)
        target = raw.clone()
        for i, (mine, values) in enumerate(cells):
            if len(mine) > length:
                drawn = torch.randperm(len(mine) - self.keep_first, generator=self.generator) + self.keep_first
                chosen = torch.cat([torch.arange(self.keep_first), drawn])[:length]
                mine, values = mine[chosen], values[chosen]
            genes[i, : len(mine)], raw[i, : len(mine)] = mine, values
            target[i, : len(mine)] = self.binned(values)
        mask = (torch.rand(genes.shape, generator=self.generator) < self.mlm_probability) & (genes != PAD)
        mask[:, : self.keep_first] = False
        expr = target.masked_fill(mask, MASK_VALUE)
        return {"gene": genes, "expr": expr, "expr_target": target, "expr_raw": raw, "gen_mask": mask}

    def cell(self, genes: Any, expressions: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(genes, list):
            genes, expressions = torch.tensor(genes), torch.tensor(expressions)
        genes, expressions = genes.squeeze(), expressions.squeeze()  # a numpy array has another squeeze
        if not isinstance(genes, torch.Tensor):
            raise TypeError(f"expected a tensor, got {type(genes)}")
        assert len(genes) == len(expressions)
        return genes, expressions

    def binned(self, values: torch.Tensor) -> torch.Tensor:
        kept, rest = values[: self.keep_first], values[self.keep_first :]
        edges = torch.quantile(rest, torch.linspace(0, 1, BINS - 1))  # refuses whole numbers
        return torch.cat([kept, torch.bucketize(rest, edges).clamp(1, BINS - 1).to(torch.float32)])


@pytest.fixture
def loader(streaming: Any, tmp_path: Path) -> Any:
    """Batches of an export by way of `StreamingDataLoader`, and the rows that went in."""

    def batches(encoding: Any, **options: Any) -> tuple[list[dict[str, torch.Tensor]], pa.Table]:
        rows, out = with_tahoe(make_rows({"train": 90})), new_folder(tmp_path / "out" / encoding)
        mds.write(Given(out, rows.header, rows.batches(32), threads=2), MdsTokens(tokenizer="tahoe", encoding=encoding))
        cache = str(tmp_path / "cache" / encoding)
        dataset = streaming.StreamingDataset(
            remote=str(out / "train"), local=cache, shuffle=False, batch_size=16, **options
        )
        found = streaming.StreamingDataLoader(dataset, batch_size=16, collate_fn=Collator(512), drop_last=False)
        return list(found), rows.tables["train"]

    return batches


@pytest.mark.parametrize("encoding", ["tensors", "json"])
def test_batches_hold_the_genes_and_counts_of_every_cell(loader: Any, encoding: str) -> None:
    """`<cls>` first, then genes with their counts, then padding; bins of the counts alone."""
    found, table = loader(encoding, allow_unsafe_types=encoding == "tensors")
    assert [len(b["gene"]) for b in found] == [16] * 5 + [10]
    cells = iter(table.to_pylist())
    for batch in found:
        assert batch["gene"].dtype == torch.int64
        assert all(batch[name].dtype == torch.float32 for name in ("expr", "expr_target", "expr_raw"))
        for genes, raw, target, cell in zip(
            *(batch[k].numpy() for k in ("gene", "expr_raw", "expr_target")), cells, strict=False
        ):
            n = len(cell["tokens:tahoe:genes"])
            assert genes[:n].tolist() == cell["tokens:tahoe:genes"] and not genes[n:].any()
            assert raw[:n].tolist() == cell["tokens:tahoe:expressions"] and (raw[n:] == PAD_VALUE).all()
            assert (genes[0], raw[0], target[0]) == (1, PAD_VALUE, PAD_VALUE)
            assert 1 <= target[1:n].min() and target[1:n].max() < BINS
            order = np.argsort(raw[1:n], kind="stable")
            assert (np.diff(target[1:n][order]) >= 0).all()
    assert next(cells, None) is None


def test_both_encodings_give_the_same_batches(loader: Any) -> None:
    """The one with pickles and the one without, in the same order with the same masks."""
    tensors, _ = loader("tensors", allow_unsafe_types=True)
    lists, _ = loader("json")
    for one, other in zip(tensors, lists, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k], other[k]) for k in one)


def test_arrays_are_for_readers_of_ones_own(loader: Any) -> None:
    """`ndarray` is the smallest, and not what that collator takes."""
    with pytest.raises(TypeError, match="expected a tensor"):
        loader("ndarray")
