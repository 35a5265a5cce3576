"""One vocabulary over several datasets, made by the workflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cellmill.contracts.counts import CountsPart
from cellmill.contracts.genes import read_genes
from cellmill.vocabularies import load_tokens

from ..unit.stages import random_counts, write_raw
from .project import Project, digests

FEW = {"<pad>": 0, "GNLY": 1, "<cls>": 2, "<junk0>": 3}


@pytest.fixture(scope="module")
def with_genes(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished dataset, another with other genes, and a vocabulary to extend; the genes of both are made."""
    project = finished.copy(tmp_path_factory.mktemp("vocabularies") / "copy")
    counts = random_counts(60, 3, seed=1)
    raw = write_raw(project.root / "other.h5ad", counts, genes=["NEW-B", "NEW-A", "GNLY"])
    source = {"kind": "files", "files": {"0": raw.name}}
    project.write_dataset(
        "other", title="Other", source=source, quality={"mads": {}}, exports=[], tokenizers=[], embedders=[]
    )
    (project.root / "few.json").write_text(json.dumps(FEW))
    project.run("--config", 'datasets=["other"]', "--", "results/other/genes/genes.parquet")
    return project


@pytest.fixture
def two(with_genes: Project, tmp_path: Path) -> Project:
    """A copy of both."""
    return with_genes.copy(tmp_path / "copy")


def define(project: Project, datasets: list[str], **vocabularies: Any) -> None:
    project.edit_config({"datasets": datasets, "vocabularies": vocabularies})


def test_a_vocabulary_over_two_datasets_extends_another(two: Project):
    """The old ids stay, the genes of both follow by name, another extends it; with provenance, no reruns."""
    both = ["pbmc68k", "other"]
    define(
        two,
        both,
        atlas={"kind": "build", "datasets": both, "extends": "few.json", "reuse_junk": True},
        padded={"datasets": ["other"], "extends": "atlas", "pad_to_multiple_of": 64, "special": ["<eos>"]},
    )
    made, provenance = (f"results/vocabularies/atlas.json{s}" for s in ("", ".provenance.json"))
    assert {"make_vocabulary": 2}.items() <= two.planned().items()
    two.run("--", "results/vocabularies/padded.json")
    genes = {d: read_genes(two.results(d) / "genes" / "genes.parquet")[0]["gene_id"] for d in both}
    new = sorted(set(np.concatenate(list(genes.values()))) - {"GNLY"})
    kept = {t: i for t, i in FEW.items() if t != "<junk0>"}
    atlas = load_tokens(two.root / made)
    assert atlas == kept | {token: 3 + i for i, token in enumerate(new)}
    padded = load_tokens(two.root / "results/vocabularies/padded.json")
    assert padded.items() >= atlas.items() and padded["<eos>"] == len(atlas) and len(padded) % 64 == 0
    said = json.loads((two.root / provenance).read_text())
    assert [read["path"] for read in said["inputs"]] == [
        "few.json",
        *(f"results/{d}/genes/genes.parquet" for d in both),
    ]
    assert said["made_by"] == "make_vocabulary" and said["counts"]["genes"] == len(new) + 1
    assert two.planned("--", "results/vocabularies/padded.json") == {}
    before = digests(two.root / "results" / "vocabularies")
    two.run("-f", "--", made, cores=1)
    assert digests(two.root / "results" / "vocabularies") == before


def test_a_tokenizer_takes_a_vocabulary_that_the_workflow_makes(two: Project):
    """It is made first; the ids of the cells are its own, and the genes of both datasets have one."""
    both = ["pbmc68k", "other"]
    two.edit_config({"tokenizers": {"mine": {"kind": "tahoe_x1", "vocabulary": "atlas"}}})
    define(two, both, atlas={"datasets": both})
    made = "results/other/tokenized/mine/0.parquet"
    planned = two.planned("--", made)
    assert {"make_vocabulary": 1, "build_vocabulary": 1, "tokenize_part": 1}.items() <= planned.items()
    two.run("--", made)
    atlas = load_tokens(two.root / "results/vocabularies/atlas.json")
    assert load_tokens(two.root / "results/other/tokenized/mine/vocabulary.json") == atlas
    tokens = pq.read_table(two.root / made)
    with CountsPart(two.root / "results/other/processed/0.h5ad") as part:
        cells, genes = part.rows(0, part.n_cells).toarray(), part.var.index
    expected = [[1, *(atlas[g] for g, n in zip(genes, cell, strict=True) if n)] for cell in cells.tolist()]
    assert tokens["genes"].to_pylist() == expected
    assert two.planned("--", made) == {}
    (two.root / "few.json").write_text(json.dumps(FEW))
    define(two, both, atlas={"datasets": both, "extends": "few.json"})
    assert two.planned("--", made) == {"make_vocabulary": 1, "build_vocabulary": 1, "tokenize_part": 1}


def test_a_vocabulary_without_its_datasets_is_not_made(two: Project):
    """A run of one dataset does not need the other; who asks for the vocabulary is told."""
    define(two, ["pbmc68k"], atlas={"datasets": ["pbmc68k", "other"]})
    assert two.planned() == {}
    output = two.run("-n", "--", "results/vocabularies/atlas.json", expect=1)
    assert "No dataset 'other' in this run" in output and "--config" in output
    assert "No vocabulary 'atals'" in two.run("-n", "--", "results/vocabularies/atals.json", expect=1)


def test_an_option_of_a_vocabulary_reruns_it_alone(two: Project):
    """And what makes it is its spec, defaults filled in."""
    define(two, ["pbmc68k"], v={"datasets": ["pbmc68k"]})
    assert two.planned() == {"make_vocabulary": 1}
    two.run()
    define(two, ["pbmc68k"], v={"datasets": ["pbmc68k"], "order": "lexicographic"})
    assert two.planned() == {}
    define(two, ["pbmc68k"], v={"datasets": ["pbmc68k"], "pad_to_multiple_of": 8})
    assert two.planned() == {"make_vocabulary": 1}


def test_names_in_two_cases_end_the_run_before_anything_is_written(two: Project):
    """With the dataset, the names, and the rule that would settle it."""
    write_raw(two.root / "other.h5ad", random_counts(60, 2, seed=2), genes=["gnly", "x"])
    define(two, ["pbmc68k", "other"], v={"datasets": ["pbmc68k", "other"]})
    output = two.run("--", "results/vocabularies/v.json", expect=1)
    assert "results/other/genes/genes.parquet: 1 of 2 names are there in another case: gnly (GNLY)." in output
    assert "Set case to first (one token) or keep (a token each)." in output
    assert not (two.root / "results/vocabularies/v.json").exists()
