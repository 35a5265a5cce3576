"""The frame of every export: gather the rows, let the format write them, manifest last, one rename."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from cellmill.columns import Columns
from cellmill.contracts import embedding, manifest, vocabulary
from cellmill.contracts import genes as gene_files
from cellmill.contracts import ledger as ledger_files
from cellmill.contracts.counts import CountsPart
from cellmill.contracts.tokens import TokensPart, added_up
from cellmill.exports import Export
from cellmill.exports.features import typed_obs
from cellmill.exports.given import Given
from cellmill.exports.hf import HfSpec
from cellmill.exports.rows import Header, PartFiles, common_schema, left_out, needs, ordered, token_column
from cellmill.files import replacing, scratch
from cellmill.quality.ledger import account


@dataclass(frozen=True)
class About:
    """What the manifest and the card say of the dataset."""

    dataset: str
    title: str
    organism: str
    license: str | None
    columns: Columns
    kept_columns: list[str]
    split: dict[str, Any]
    citation: str | None = None


def export(
    parts: Sequence[PartFiles],
    *,
    path: str,
    spec: Export,
    about: About,
    ledger: str | PathLike[str],
    genes: str | PathLike[str],
    vocabulary_file: str | None,
    out: str | PathLike[str],
    threads: int = 1,
) -> None:
    """Write one export: a folder per split and ``manifest.json``, which appears when everything is there.

    Args:
        path: the export's name, such as ``hf/cells``.
        ledger: ``quality/ledger.parquet``.
        out: its ``manifest.json``.
        threads: how many of them work, where the format can use more than one.

    The bytes depend on the cells and the spec, not on parts, their order, blocks or cores.
    """
    format_ = path.split("/")[0]
    table, gene_facts = gene_files.read_genes(genes)
    accounted = account(ledger)
    missing = left_out(parts)
    header = _header(parts, spec, about, table, accounted, missing)
    if isinstance(spec, HfSpec):
        header = replace(header, obs=typed_obs(parts, header.obs, max_classes=spec.max_classes))
    columns = (
        *needs(counts=spec.with_counts, embeddings=spec.embedders),
        *(token_column(t, c) for t, found in header.tokens.items() for c in found),
    )
    tokens = vocabulary.read_tokens(vocabulary_file) if vocabulary_file is not None else None
    with replacing(Path(out).parent, directory=True) as folder:
        with (
            scratch(folder / "rows") as spill,
            closing(ordered(parts, header=header, columns=columns, scratch=spill)) as rows,
        ):
            write = import_module(f"cellmill.exports.{format_}").write
            facts = write(Given(folder, header, rows, tokens, threads), spec)
        said = {
            "contract": str(manifest.CONTRACTS[format_]),
            "export": path,
            "dataset": about.dataset,
            "title": about.title,
            "organism": about.organism,
            "spec": spec.model_dump(mode="json"),
            "split": about.split,
            "splits": header.cells,
            "ledger": accounted,
            "genes": len(table),
            "variable_genes": gene_facts["variable_genes"],
            "train_cells": gene_facts["train_cells"],
            **gene_names(gene_facts, ledger),
            **drawn_from(ledger),
            "counts_dtype": header.counts_dtype.name,
            "order": "each split in the order of a hash of the cell id",
            "facts": facts,
            "tokens": _token_facts(parts, spec),
            **({"left_out": missing} if missing else {}),
            "parts": {str(Path(p.processed).stem): CountsPart(p.processed).n_cells for p in parts},
        }
        if format_ == "hf":
            from cellmill.exports.card import write_card

            write_card(folder / "README.md", said, about, _label_counts(parts, about))
        manifest.write(folder, said)


def gene_names(gene_facts: dict[str, Any], ledger: str | PathLike[str]) -> dict[str, Any]:
    """What became of the gene names over all parts, as ``{"gene_names": …}``; empty where every name stays as found.

    ``names`` counts names by outcome, ``counts_dropped`` the counts of the kept cells that went with dropped ones.
    """
    said = gene_facts.get("names")
    if said is None:
        return {}
    lost = ledger_files.read_ledger(ledger)[1]["gene_counts_dropped"]
    return {"gene_names": {"table": said["table"], "names": said["outcomes"], "counts_dropped": lost}}


def drawn_from(ledger: str | PathLike[str]) -> dict[str, Any]:
    """Of how many cells those of a subset were drawn, as ``{"subset": …}``; empty where the dataset is whole."""
    said = ledger_files.read_ledger(ledger)[1].get("subset")
    return {} if said is None else {"subset": said}


def name_rows(said: dict[str, Any]) -> list[tuple[str, str, int, int]]:
    """``gene_names`` of a manifest as rows for people: outcome, what it means, names, counts lost; kept first."""
    from cellmill.genes.identifiers import DROPPED, KEPT

    names, counts = said["names"], said["counts_dropped"]
    return [(o, means, names[o], counts.get(o, 0)) for o, means in (KEPT | DROPPED).items() if o in names]


def _header(
    parts: Sequence[PartFiles], spec: Export, about: About, genes: Any, ledger: dict[str, Any], missing: dict[str, int]
) -> Header:
    with CountsPart(parts[0].processed) as part:
        dtype = np.dtype(part.dtype)
    tokens = {}
    for name in spec.tokenizers:
        with TokensPart(parts[0].tokens[name]) as file:
            tokens[name] = {column: file.facts["exported"][column] for column in file.fields}
    asked = getattr(spec, "columns", None)
    columns = list(
        dict.fromkeys([*(about.kept_columns if asked is None else asked), *spec.extra_columns(about.columns)])
    )
    return Header(
        dataset=about.dataset,
        cells={s: ledger["splits"].get(s, 0) - missing.get(s, 0) for s in about.split["fractions"]},
        genes=genes,
        counts_dtype=dtype,
        obs=common_schema(parts, columns),
        tokens=tokens,
        widths={e: int(embedding.read(parts[0].embeddings[e]).shape[1]) for e in spec.embedders},
        batch=about.columns.batch,
        label=about.columns.label,
    )


def _token_facts(parts: Sequence[PartFiles], spec: Export) -> dict[str, dict[str, Any]]:
    """What the tokenizers reported, added up over the parts."""
    facts: dict[str, dict[str, Any]] = {}
    for name in spec.tokenizers:
        files = []
        for part in parts:
            with TokensPart(part.tokens[name]) as file:
                files.append(file.facts)
        facts[name] = added_up(files)
    return facts


def _label_counts(parts: Sequence[PartFiles], about: About) -> dict[str, int]:
    """Cells per label over all parts, the most frequent first."""
    label = about.columns.label
    if label is None:
        return {}
    total: Counter[str] = Counter()
    for part in parts:
        with CountsPart(part.processed) as counts:
            total.update({str(k): int(v) for k, v in counts.column(label).value_counts(dropna=False).items() if v})
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))
