"""One self-contained page about a dataset, for eyes."""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cellmill import __version__
from cellmill.contracts import genes as gene_files
from cellmill.contracts import ledger as ledger_files
from cellmill.contracts import manifest as manifests
from cellmill.contracts import profiles
from cellmill.contracts import quality as quality_files
from cellmill.contracts import subset as subset_files
from cellmill.contracts.doublets import DoubletScores
from cellmill.contracts.tokens import TokensPart, added_up
from cellmill.contracts.versions import REPORT
from cellmill.errors import CellmillError
from cellmill.exports.export import drawn_from, gene_names, name_rows
from cellmill.files import format_bytes, read_json, replacing
from cellmill.quality.ledger import account, account_by_batch
from cellmill.quality.names import in_order, metric_of
from cellmill.report.asked import of_embedders, of_tokenizers
from cellmill.report.embedders import TITLES, compared
from cellmill.report.loading import how_to_load

File = str | PathLike[str]

CAPTIONS = {
    "cells": (
        "Where the cells went.",
        "Each bar begins where the one above it ends; a cell is counted under the first reason that drops it.",
    ),
    "quality": (
        "Quality of the cells.",
        "Every raw cell, stacked: kept and dropped. Lines are thresholds over the whole dataset, dashed lines are "
        "fixed bounds; where there are several batches, ticks at the top are those of each batch, by which its "
        "cells are judged.",
    ),
    "doublets": (
        "Doublets.",
        "Scores of the cells of each batch (filled) and of doublets simulated from them (line); cells beyond the "
        "dashed threshold are predicted doublets.",
    ),
    "genes": (
        "Variable genes.",
        "Mean and variability of every gene over the training cells; the most variable genes are named.",
    ),
    "embedders": (
        "Embedders.",
        "What each embedder scores, on the same cells; a ring marks the best. Labels should stay apart, batches should "
        "mix, and a linear classifier should find the labels of cells that it has not seen.",
    ),
    "umap": (
        "UMAP.",
        "The same cells by label, by batch and by split. The splits should lie over one another; distances between "
        "groups mean little.",
    ),
}
"""Title and text under each figure; the captions of ``snakemake --report`` say the same."""
BATCHES_SHOWN = 200
WORST_BATCHES = 20
NAMES_SHOWN = 10
STRATA_SHOWN = 100


@dataclass(frozen=True)
class WrittenFrom:
    """What the page is made from."""

    figures: Sequence[File]
    """The figures, each named after its caption."""
    manifests: Sequence[File]
    """``manifest.json`` of every export."""
    tokens: Sequence[File]
    """``tokenized/{tokenizer}/{part}.parquet``: the folder names the tokenizer."""
    ledger: File
    thresholds: File
    genes: File
    config: File
    """``config.json``: the resolved configuration."""
    subset: Sequence[File] = ()
    """``raw/subset.parquet``, of a dataset that has a subset."""
    pseudobulk: Sequence[File] = ()
    """``pseudobulk/{name}.h5ad``, where the dataset asks for profiles."""
    doublets: Sequence[File] = ()
    """Doublet scores, where the dataset looks for them."""
    embeddings: Sequence[File] = ()
    """``embedded/{embedder}/{part}.json`` of one part of each: the folder names the embedder."""
    vocabularies: Sequence[File] = ()
    """``tokenized/{tokenizer}/vocabulary.json`` of tokenizers whose vocabulary is from outside."""
    gene_tokens: Sequence[File] = ()
    """The gene tokens of each of these."""
    judged: Sequence[File] = ()
    """What every embedder scores, where there is something to judge by."""


def write_report(made: WrittenFrom, *, dataset: str, title: str, splits: Sequence[str], out: File) -> None:
    """Write the page: numbers, thresholds, exports, tokenizers, figures, configuration.

    It needs no other file, no network and no script, and says no time and no path of this machine,
    so that the same results give the same bytes.

    Raises:
        CellmillError: a manifest whose numbers are not those of the cells and genes.
    """
    ledger = account(made.ledger)
    batches = account_by_batch(made.ledger)
    _, checked = ledger_files.read_ledger(made.ledger)
    genes, gene_facts = gene_files.read_genes(made.genes)
    counted = {
        "ledger": ledger,
        "genes": len(genes),
        "variable_genes": gene_facts["variable_genes"],
        "train_cells": gene_facts["train_cells"],
    }
    named = gene_names(gene_facts, made.ledger)
    drawn = drawn_from(made.ledger)
    exports = [_checked(path, dataset, counted | named | drawn) for path in made.manifests]
    config = read_json(made.config)
    values = {
        "dataset": dataset,
        "title": title,
        "version": __version__,
        **counted,
        "gene_table": named["gene_names"]["table"] if named else None,
        "gene_names": name_rows(named["gene_names"]) if named else [],
        "gene_sets": _gene_sets(gene_facts["sets"]),
        "annotations": checked.get("annotations"),
        "subset": drawn.get("subset"),
        "strata": [row for path in made.subset for row in strata_drawn(path)],
        "strata_shown": STRATA_SHOWN,
        "pseudobulk": [profiles.read_facts(path) for path in made.pseudobulk],
        "splits": {name: ledger["splits"].get(name, 0) for name in splits},
        "dropped": sorted(ledger["dropped"].items(), key=lambda item: (-item[1], item[0])),
        "worst_batches": [b for b in batches[:WORST_BATCHES] if b["dropped"]] if len(batches) > 1 else [],
        "n_batches": len(batches),
        "checked": checked,
        "thresholds": _thresholds(quality_files.read_thresholds(made.thresholds)),
        "doublets": _doublets(DoubletScores(made.doublets)) if "doublets" in checked else None,
        "exports": [_export(said, dataset) for said in exports],
        "tokenizers": _tokenizers(made.tokens, config),
        "asked": [*of_embedders(made.embeddings), *of_tokenizers(made.vocabularies, made.gene_tokens)],
        "names_shown": NAMES_SHOWN,
        "judged": _judged(made.judged),
        "not_judged": _why_not_judged(config),
        "figures": {Path(path).stem: _figure(path) for path in made.figures},
        "captions": CAPTIONS,
        "contract": str(REPORT),
        "config": json.dumps(config, indent=2, ensure_ascii=False),
    }
    environment = Environment(
        loader=PackageLoader("cellmill.report", "."),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": "{:,}".format, "share": share}
    with replacing(out) as aside:
        aside.write_text(environment.get_template("page.html.j2").render(values), encoding="utf-8")


def share(part: int, whole: int) -> str:
    """A percentage as people read it: ``99.1 %``, and neither 0 nor 100 unless it is all or nothing."""
    if whole == 0:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    return "> 99.9 %" if 99.95 <= percent < 100 else f"{percent:.1f} %"


def _checked(path: File, dataset: str, counted: dict[str, Any]) -> dict[str, Any]:
    """A manifest that says what we counted."""
    said = manifests.read(path)
    for key, expected in {"dataset": dataset, **counted}.items():
        if said.get(key) != expected:
            raise CellmillError(
                path,
                f"{key} is {_brief(said.get(key))}, but the dataset now has {_brief(expected)}.",
                "The export is of an earlier run: delete its manifest.json and run snakemake again.",
            )
    return said


def _brief(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def strata_drawn(subset: File) -> list[dict[str, Any]]:
    """Per stratum over all parts: its ``values``, ``found``, ``passed`` and ``drawn`` cells; the largest first."""
    table, _ = subset_files.read_subset(subset)
    rows: dict[tuple[str | None, ...], Counter[str]] = {}
    for row in table.to_pylist():
        mine = rows.setdefault(tuple(row["stratum"]), Counter())
        mine.update({key: row[key] for key in ("found", "passed", "drawn")})
    shown = [{"values": ["(missing)" if v is None else v for v in stratum], **n} for stratum, n in rows.items()]
    return sorted(shown, key=lambda row: (-row["found"], row["values"]))


# --- thresholds


def _thresholds(said: dict[str, Any]) -> dict[str, Any]:
    metrics = in_order(said["dataset"])
    several = len(said["batches"]) > 1
    batches = [
        {
            "name": name,
            "cells": batch["cells"],
            "of": batch["thresholds_of"],
            "bounds": [_interval(batch["bounds"][m], m) for m in metrics],
        }
        for name, batch in sorted(said["batches"].items())[:BATCHES_SHOWN]
        if several
    ]
    return {
        "metrics": [{"metric": m, **_bound(said["dataset"][m], m)} for m in metrics],
        "names": metrics,
        "fixed": [(k, "none" if v is None else f"{v:,g}") for k, v in sorted(said["fixed"].items())],
        "batches": batches,
        "more_batches": max(0, len(said["batches"]) - BATCHES_SHOWN) if several else 0,
    }


def _bound(bound: dict[str, Any], metric: str) -> dict[str, Any]:
    if not bound["applied"]:
        return {"applied": False, "why": bound["why"]}
    numbers = {k: _value(bound[k], metric) for k in ("lower", "median", "upper")}
    return {"applied": True, "mads": f"{(bound['upper'] - bound['median']) / bound['mad']:.3g}", **numbers}


def _interval(bound: dict[str, Any], metric: str) -> str:
    if not bound["applied"]:
        return f"not applied: {bound['why']}"
    return f"{_value(bound['lower'], metric)} to {_value(bound['upper'], metric)}"


def _value(value: float | None, metric: str) -> str:
    """A bound, and behind a logarithm what it is in counts or genes."""
    if value is None:
        return "–"
    if metric.startswith("log1p_"):
        return f"{value:.2f} ({max(0.0, math.expm1(value)):,.0f})"
    return f"{value:,.2f}" if metric.startswith("pct_") else f"{value:,.0f}"


# --- gene sets


def _gene_sets(said: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Each set with its metric, its genes, and the first of its names that are in no part."""
    return [
        {
            "metric": metric_of(name),
            "genes": found["genes"],
            "in_every_part": found["in_every_part"],
            "not_found": len(found["not_found"]),
            "such_as": found["not_found"][:NAMES_SHOWN],
        }
        for name, found in said.items()
    ]


# --- doublets


def _doublets(scores: DoubletScores) -> dict[str, Any]:
    """Rows for at most ``BATCHES_SHOWN`` batches: those that were not judged, then by the share that is predicted."""
    rows = [
        {
            "name": name,
            "cells": batch["cells"],
            "outcome": f"{batch['outcome']}: {batch['why']}" if "why" in batch else batch["outcome"],
            "threshold": "–" if batch.get("threshold") is None else f"{batch['threshold']:.3f}",
            "predicted": batch.get("predicted", 0),
            "scored": batch.get("scored", 0),
        }
        for name, batch in scores.batches.items()
    ]
    rows.sort(key=lambda r: (r["outcome"] == "judged", -r["predicted"] / max(r["scored"], 1), r["name"]))
    return {"rows": rows[:BATCHES_SHOWN], "more": max(0, len(rows) - BATCHES_SHOWN)}


# --- exports and tokenizers


def _export(said: dict[str, Any], dataset: str) -> dict[str, Any]:
    path, kind = said["export"], said["spec"]["kind"]
    return {
        "path": f"results/{dataset}/{path}",
        "kind": kind,
        "cells": said["splits"],
        "size": format_bytes(sum(file["bytes"] for file in said["files"].values())),
        "load": how_to_load(dataset, path, kind, encoding=said["spec"].get("encoding")),
    }


def _tokenizers(files: Iterable[File], config: dict[str, Any]) -> list[dict[str, Any]]:
    """What each tokenizer reported, over all parts."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in files:
        with TokensPart(path) as file:
            found.setdefault(Path(path).parent.name, []).append(file.facts)
    rows = []
    for name, parts in sorted(found.items()):
        facts = added_up(parts)
        rows.append(
            {
                "name": name,
                "of_genes": share(facts["genes_with_token"], facts["genes"]),
                "of_values": share(facts["values_with_token"], facts["values"]),
                "of_counts": share(facts["counts_with_token"], facts["counts"]),
                "per_cell": f"{facts['tokens'] / facts['cells']:,.0f}" if facts["cells"] else "–",
                "histogram": _histogram(facts["tokens_per_cell"]),
                "limit": config["tokenizers"].get(name, {}).get("max_len_tokens"),
                "cut": facts["cells_cut"],
                "empty": facts["cells_empty"],
                "left_out": sum(facts["cells_left_out"].values()),
            }
        )
    return rows


# --- embedders


def _judged(files: Sequence[File]) -> dict[str, Any] | None:
    """The table of embedders, a row each, and what is to be known of it."""
    if not files:
        return None
    found = compared(files)
    rows = []
    for name in found.embedders:
        scores = [(found.scores[name, m], name in found.best(m)) for m in found.measures]
        cells = [("–" if s.value is None else f"{s.value:.3f}", best) for s, best in scores]
        rows.append({"name": name, "dimensions": found.dimensions[name], "scores": cells})
    any_of = found.embedders[0]
    notes = [f"{TITLES[m.metric]} ({m.by}): {why}" for m in found.measures if (why := found.scores[any_of, m].why)]
    return {
        "measures": [{"title": TITLES[m.metric], "by": m.by} for m in found.measures],
        "rows": rows,
        "notes": notes,
        "probes": found.probes[any_of],
        "not_converged": [f"{e} ({p})" for e, of in found.probes.items() for p, f in of.items() if not f["converged"]],
        "cells": found.cells,
    }


def _why_not_judged(config: dict[str, Any]) -> str:
    """In words, of a dataset whose embeddings are not judged."""
    if not config.get("embedders"):
        return "This dataset has no embedding."
    if config["dataset"].get("judge") is None:
        return "Embeddings are not judged: judge is null in the dataset's file."
    return "Embeddings are not judged: neither columns.label nor columns.batch names a column to judge by."


BARS = 40


def _histogram(said: dict[str, Any]) -> Markup:
    """Tokens per cell as small bars, of equal width in tokens; cells without any are the first."""
    cells, width = said["cells"], said["width"]
    together = max(1, -(-len(cells) // BARS))
    bars = [sum(cells[i : i + together]) for i in range(0, len(cells), together)]
    most = max(bars, default=0)
    if not most:
        return Markup("–")
    drawn = "".join(
        f'<rect x="{3 * i}" y="{24 - h}" width="2" height="{h}"/>'
        for i, n in enumerate(bars)
        if (h := -(-24 * n // most))
    )
    label = f"0 to {len(cells) * width:,} tokens, {together * width} per bar"
    return Markup(
        '<svg role="img" aria-label="{0}" width="{1}" height="24" fill="currentColor"><title>{0}</title>{2}</svg>'
    ).format(label, 3 * len(bars), Markup(drawn))


# --- figures


def _figure(path: File) -> Markup:
    """A figure as part of the page."""
    file = Path(path)
    alt = Markup.escape(" ".join(CAPTIONS[file.stem]))
    if file.suffix == ".png":
        return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(
            alt, base64.b64encode(file.read_bytes()).decode("ascii")
        )
    svg = file.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)  # HTML knows them; without them the page has no address in it
    svg = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{file.stem}-", svg)  # ids are unique in a page, not in a figure
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1)
    return Markup(svg)
