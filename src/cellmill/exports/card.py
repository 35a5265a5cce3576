"""The dataset card: facts counted in this run, and the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from cellmill import __version__
from cellmill.exports.export import About, name_rows

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LABELS_SHOWN = 50


def write_card(path: Path, said: dict[str, Any], about: About, labels: dict[str, int]) -> None:
    """Write ``README.md`` of a Hugging Face export from its manifest."""
    environment = Environment(
        loader=PackageLoader("cellmill.exports", "."),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    values = {
        **said,
        "front_matter": yaml.safe_dump(_front_matter(said, about), sort_keys=False, allow_unicode=True),
        "columns": said["facts"]["columns"],
        "left_out": said.get("left_out", {}),
        "multiplets": said["spec"]["kind"] == "multiplets",
        "vocabulary_size": said["facts"].get("vocabulary"),
        "labels": {_cell(k): v for k, v in list(labels.items())[:_LABELS_SHOWN]},
        "label": about.columns.label,
        "gene_names": said.get("gene_names"),
        "name_rows": name_rows(said["gene_names"]) if "gene_names" in said else [],
        "subset": said.get("subset"),
        "version": __version__,
    }
    path.write_text(environment.get_template("card.md.j2").render(values))


def _cell(text: str) -> str:
    """Text that cannot break a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())


def _front_matter(said: dict[str, Any], about: About) -> dict[str, Any]:
    cells = said["ledger"]["kept"]
    size = next((name for limit, name in _SIZES if cells < limit), "n>1M")
    matter: dict[str, Any] = {"pretty_name": about.title}
    if about.license is not None:
        matter["license"] = about.license
    matter |= {"tags": ["single-cell", "rna-seq", "biology"], "size_categories": [size]}
    files = [{"split": s, "path": f"{s}/*.parquet"} for s, n in said["splits"].items() if n]
    return matter | {"configs": [{"config_name": "default", "data_files": files}]}
