"""One gene space per dataset: every gene of any part, in the order of its id."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import numpy as np
import pyarrow as pa

from cellmill.contracts import genes as contract


def unify_genes(part_genes: Sequence[str | PathLike[str]], *, out: str | PathLike[str]) -> None:
    """The union of the parts' genes, sorted by id; the same for any number and order of parts.

    A gene that several symbols are known for takes the first by name.
    """
    symbols: dict[str, str | None] = {}
    in_parts: dict[str, int] = {}
    for path in part_genes:
        genes = contract.read_part_genes(path)
        for gene in set(genes.gene_ids):
            in_parts[gene] = in_parts.get(gene, 0) + 1
        for gene, symbol in zip(genes.gene_ids, genes.gene_symbols, strict=True):
            known = symbols.setdefault(gene, symbol)
            if symbol is not None and (known is None or symbol < known):
                symbols[gene] = symbol
    ids = sorted(symbols)
    table = pa.table(
        {"gene_id": pa.array(ids, pa.string()), "gene_symbol": pa.array([symbols[g] for g in ids], pa.string())}
    )
    everywhere = sum(in_parts[g] == len(part_genes) for g in ids)
    contract.write_space(out, table, facts={"genes": len(ids), "genes_in_every_part": everywhere})


def columns_in_space(gene_ids: np.ndarray, space: np.ndarray) -> np.ndarray:
    """int32 (columns of a file,): where each gene stands in the sorted gene space."""
    found = np.searchsorted(space.astype(str), gene_ids.astype(str))
    return found.astype(np.int32)
