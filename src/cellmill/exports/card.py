"""The dataset card: facts counted in this run, and the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from cellmill.contracts.manifest import library_versions
from cellmill.exports.export import About, name_rows
from cellmill.files import format_bytes

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
    (10_000_000_000, "1B<n<10B"),
)
"""The Hub's names of sizes; what is larger is ``10B<n<100B``."""
_LABELS_SHOWN = 50
_MEANS = (
    (r"cell_id|sample_idx", "the cell's id, unique over the dataset"),
    (r"input_ids", "tokens of the cell; `vocabulary.json` has their ids"),
    (r"genes", "the expressed genes, as the export's spec says below"),
    (r"counts", "raw counts of these genes"),
    (r"expressions", "values of these genes"),
    (r"cell_sentence_\d+", "names of the expressed genes by falling count"),
    (r"caption(_\d+)?", "text about the cell"),
    (r"label", "1.0: the caption is the cell's own; 0.0: another cell's"),
    (r"positive(_\d+)?", "text about the anchor"),
    (r"negative_\d+_idx", "the id of a negative"),
    (r"negative_\d*[13579]", "the caption of that negative"),
    (r"negative_\d+", "the cell sentence of that negative"),
    (r"embedding_.+", "a vector of the cell"),
)


def write_card(path: Path, said: dict[str, Any], about: About, labels: dict[str, int]) -> None:
    """Write ``README.md`` of a Hugging Face export from its manifest; the data files must lie beside it."""
    environment = Environment(
        loader=PackageLoader("cellmill.exports", "."),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    facts, kind = said["facts"], said["spec"]["kind"]
    sizes = {s: sum((path.parent / f).stat().st_size for f in files) for s, files in facts["files"].items()}
    values = {
        **said,
        "front_matter": _yaml(_front_matter(said, about, sizes)),
        "kind": kind,
        "splits": [
            (s, n, facts["rows"].get(s, 0), len(facts["files"].get(s, {})), format_bytes(sizes.get(s, 0)))
            for s, n in said["splits"].items()
        ],
        "rows": sum(facts["rows"].values()),
        "columns": _columns(facts, kind),
        "first_class": next(iter(facts["classes"]), None),
        "captions": [f"`{c}`" for c in facts.get("captions", [])],
        "fewest": facts.get("fewest_eligible", {}),
        "shares": {k.replace("_", " "): n for k, n in facts.get("negatives", {}).items() if n},
        "ledger": {**said["ledger"], "dropped": {_cell(r): n for r, n in said["ledger"]["dropped"].items()}},
        "left_out": said.get("left_out", {}),
        "vocabulary_size": facts.get("vocabulary"),
        "labels": {_cell(k): v for k, v in list(labels.items())[:_LABELS_SHOWN]},
        "labels_in_all": len(labels),
        "label": about.columns.label,
        "gene_names": said.get("gene_names"),
        "name_rows": name_rows(said["gene_names"]) if "gene_names" in said else [],
        "subset": said.get("subset"),
        "license": about.license,
        "citation": about.citation,
        "config": _yaml({said["export"]: said["spec"], "split": said["split"]}),
        "versions": library_versions(),
    }
    path.write_text(environment.get_template("card.md.j2").render(values))


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def _type(arrow: str) -> str:
    """``list of uint16``, ``50 × float32``."""
    scalar = {"float": "float32", "double": "float64"}
    found = re.fullmatch(r"(?:fixed_size_)?list<\w+: (\w+)>(?:\[(\d+)\])?", arrow)
    if found is None:
        return scalar.get(arrow, arrow)
    inner = scalar.get(found[1], found[1])
    return f"list of {inner}" if found[2] is None else f"{found[2]} × {inner}"


def _cell(text: str) -> str:
    """Text that cannot break a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())


def _columns(facts: dict[str, Any], kind: str) -> list[tuple[str, str, str, int]]:
    """Name, type, meaning and missing values of every column."""
    rows = []
    for name, type_ in facts["columns"].items():
        shown = f"class, {facts['classes'][name]:,} names" if name in facts["classes"] else _type(type_)
        own = name not in facts["obs"]
        means = next((m for pattern, m in _MEANS if own and re.fullmatch(pattern, name)), "obs column")
        if kind == "expression" and name == "genes":
            means = "the expressed genes, as row numbers of `genes.parquet`, from 0"
        rows.append((_cell(name), shown, means, facts["missing"].get(name, 0)))
    return rows


def _front_matter(said: dict[str, Any], about: About, sizes: dict[str, int]) -> dict[str, Any]:
    rows = said["facts"]["rows"]
    size = next((name for limit, name in _SIZES if sum(rows.values()) < limit), "10B<n<100B")
    matter: dict[str, Any] = {"pretty_name": about.title}
    if about.license is not None:
        matter["license"] = about.license
    species = [] if about.organism == "other" else [about.organism.replace("_", "-")]
    matter |= {"tags": ["single-cell", "rna-seq", "biology", "cellmill", *species], "size_categories": [size]}
    files = [{"split": s, "path": f"{s}/*.parquet"} for s in rows]
    configs: list[dict[str, Any]] = [{"config_name": "default", "data_files": files, "default": True}]
    if said["spec"]["kind"] == "expression":
        configs.append({"config_name": "genes", "data_files": [{"split": "genes", "path": "genes.parquet"}]})
    splits = [{"name": s, "num_bytes": sizes[s], "num_examples": n} for s, n in rows.items()]
    info = {
        "config_name": "default",
        "splits": splits,
        "download_size": sum(sizes.values()),
        "dataset_size": sum(sizes.values()),
    }
    return matter | {"configs": configs, "dataset_info": [info]}
