"""Which outside files the genes of a dataset need: a gene table, a list of genes, lists of gene sets.

Light on purpose: it is read whenever a DAG is built, and by most jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cellmill.errors import nearest
from cellmill.spec import Organism

if TYPE_CHECKING:
    from cellmill.config import Dataset

NO_TABLE = "none"
TABLES: dict[Organism, str] = {
    "homo_sapiens": "genes/genes_homo_sapiens.csv.gz",
    "mus_musculus": "genes/genes_mus_musculus.csv.gz",
}
"""The gene table of an organism, as a name of ``resources/ledger.tsv``: what ``genes.table: auto`` takes."""
SPACES = ("union", "intersection")
"""Gene spaces that no file says."""


def gene_table(table: str, organism: Organism) -> list[str]:
    """The file of ``genes.table`` as the workflow asks for it: none, or one."""
    name = TABLES[organism] if table == "auto" else table
    return [] if name == NO_TABLE else [_file(name)]


def gene_list(space: str) -> list[str]:
    """The file of ``genes.space`` as the workflow asks for it: none, or one."""
    return [] if space in SPACES else [_file(space)]


def gene_set_files(sets: Mapping[str, str | list[str]]) -> list[str]:
    """The files of ``genes.sets`` that are lists in files, in the order of the sets."""
    return [_file(said) for said in sets.values() if isinstance(said, str)]


def _file(name: str) -> str:
    from cellmill.sources.ledger import LEDGER, Ledger

    return Ledger(LEDGER).path_of(name)


def gene_file_problems(dataset: Dataset, base: Path) -> list[str]:
    """What is wrong with the files that ``genes:`` names, before anything runs."""
    from cellmill.sources.ledger import LEDGER, Ledger

    genes, problems = dataset.genes, []
    if genes.table == "auto" and dataset.organism not in TABLES:
        known = ", ".join(TABLES)
        problems.append(f"genes.table: auto knows no table of organism '{dataset.organism}', only of {known}.")
    asked: list[tuple[str, str, tuple[str, ...]]] = [("table", genes.table, ("auto", NO_TABLE))]
    asked += [("space", genes.space, SPACES)]
    asked += [(f"sets.{name}", said, ()) for name, said in genes.sets.items() if isinstance(said, str)]
    for key, name, words in asked:
        if name in words or (base / name).is_file():
            continue
        known_names = [n for n in Ledger(LEDGER).names if n.startswith("genes/")]
        if name not in known_names:
            problems.append(f"genes.{key}: no file '{name}'. {nearest(name, [*words, *known_names])}")
    if not genes.sets or problems:
        return problems
    from cellmill.genes.sets import absent_sets

    return absent_sets(dataset, base)
