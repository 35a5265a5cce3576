"""What changes reruns what reads it, and nothing else."""

from __future__ import annotations

import os
import re

import pytest

from .project import Project

REPORT = {"write_report": 1}


def test_a_tokenizer_option_reruns_the_tokenizer_and_its_readers(rerunnable: Project):
    """Another token limit: vocabulary and tokens of 'rank', the exports with tokens, the page; nothing else."""
    rerunnable.edit_config({"tokenizers": {"rank": {"max_len_tokens": 128}}})
    planned = rerunnable.planned()
    assert planned == {
        "write_config": 1,
        "build_vocabulary": 1,
        "tokenize_part": 1,
        "export_hf": 1,
        "export_mds": 1,
        "export_geneformer": 1,
        "write_report": 1,
    }


def test_another_tokenizers_option_reruns_nothing(rerunnable: Project):
    """A tokenizer that the dataset does not use may change."""
    rerunnable.edit_config({"tokenizers": {"geneformer_v1": {"max_len_tokens": 128}}})
    assert rerunnable.planned() == {}


def test_a_new_export_makes_that_export(rerunnable: Project):
    """One more export: that one, the written configuration and the page."""
    rerunnable.edit_config({"exports": {"hdf5": {"dense": {"kind": "counts", "layout": "dense"}}}})
    path = rerunnable.root / "config" / "datasets" / "pbmc68k.yaml"
    path.write_text(path.read_text().replace("hdf5/counts,", "hdf5/counts, hdf5/dense,"))
    assert rerunnable.planned() == {"write_config": 1, "export_hdf5": 1, "write_report": 1}


def test_a_threshold_keeps_what_was_measured(rerunnable: Project):
    """Other thresholds start at set_thresholds: raw data are not read for metrics again."""
    path = rerunnable.root / "config" / "datasets" / "pbmc68k.yaml"
    path.write_text(path.read_text() + "quality: {mads: {log1p_total_counts: 3}}\n")
    planned = rerunnable.planned()
    assert "set_thresholds" in planned and "process_part" in planned
    assert not {"retrieve_part", "measure_quality", "unify_genes"} & set(planned)


@pytest.mark.parametrize(
    ("change", "first", "not_again"),
    [
        ("quality: {filters: [{column: phase, in: [G1]}]}", "read_labels", {"measure_quality"}),
        ("quality: {rare: {column: louvain}}", "read_labels", {"measure_quality"}),
        (
            "quality: {duplicates: {rule: drop}}",
            "find_duplicates",
            {"measure_quality", "read_labels", "set_thresholds"},
        ),
    ],
    ids=["filter", "rare", "duplicates"],
)
def test_a_rule_about_cells_keeps_what_was_measured(rerunnable: Project, change: str, first: str, not_again: set[str]):
    """Filters and rare categories read the obs tables again, twins nothing but what was measured."""
    path = rerunnable.root / "config" / "datasets" / "pbmc68k.yaml"
    path.write_text(path.read_text() + change + "\n")
    planned = set(rerunnable.planned())
    assert {first, "assign_splits", "process_part", "write_ledger"} <= planned
    assert not ({"retrieve_part", "unify_genes"} | not_again) & planned


@pytest.mark.parametrize(
    ("contract", "expected"),
    [
        (
            "TOKENS",
            {"tokenize_part": 2, "export_hf": 2, "export_mds": 1, "export_geneformer": 1, "write_report": 1},
        ),
        ("SCDL", {"export_scdl": 1, "write_report": 1}),
        (
            "PCA",
            {
                **{"fit_pca": 1, "embed_part": 1, "export_hf": 1, "export_h5ad": 1, "draw_report": 1},
                **{"judge_embedder": 1, "compare_embedders": 1, "write_report": 1},
            },
        ),
        ("JUDGED", {"judge_embedder": 2, "compare_embedders": 1, "write_report": 1}),
    ],
)
def test_a_raised_contract_version_reruns_its_writer_and_readers(rerunnable: Project, contract: str, expected):
    """Raising a number in contracts/versions.py reruns the rule that writes that contract, and what reads it."""
    path = rerunnable.root / "src" / "cellmill" / "contracts" / "versions.py"
    old = path.read_text()
    line = next(line for line in old.splitlines() if line.startswith(f"{contract} = "))
    path.write_text(old.replace(line, re.sub(r", (\d+)\)", lambda found: f", {int(found[1]) + 1})", line)))
    assert rerunnable.planned() == expected


def test_a_changed_local_file_is_read_again(rerunnable: Project):
    """A raw file that was written anew is measured anew."""
    data = rerunnable.root / "data"
    data.mkdir()
    source = rerunnable.results("pbmc68k") / "raw" / "0.h5ad"
    (data / "cells.h5ad").write_bytes(source.read_bytes())
    rerunnable.write_dataset(
        "local",
        title="Local",
        source={"kind": "files", "files": {"0": "data/cells.h5ad"}},
        exports=["scdl/counts"],
    )
    target = ["--config", 'datasets=["local"]', "--", "results/local/quality/thresholds.json"]
    rerunnable.run(*target)
    assert rerunnable.planned(*target) == {}
    import anndata

    fewer = anndata.read_h5ad(source)[:600].copy()
    fewer.write_h5ad(data / "cells.h5ad")
    os.utime(data / "cells.h5ad")
    assert "measure_quality" in rerunnable.planned(*target)
