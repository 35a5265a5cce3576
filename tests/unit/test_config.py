"""The configuration: what is wrong with it is said before anything runs, all of it at once."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cellmill.config import ConfigError, Project, load_datasets, load_project

from .stages import write_raw

CONFIG: dict[str, Any] = {
    "datasets": ["heart"],
    "tokenizers": {"rank": {"kind": "rank"}},
    "embedders": {"hvg": {"kind": "hvg"}, "pca": {"kind": "pca"}},
    "exports": {"hf": {"cells": {"kind": "tokens", "embeddings": ["pca"]}}, "hdf5": {"counts": {"kind": "counts"}}},
}
HEART: dict[str, Any] = {
    "title": "Heart",
    "source": {"kind": "files", "files": {"a": "a.h5ad"}},
    "exports": ["hf/cells"],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A working folder with one readable file and its columns."""
    obs = {"donor_id": ["x", "y"], "cell_type": ["b", "c"], "split": ["m", "n"]}
    write_raw(tmp_path / "a.h5ad", np.ones((2, 3), np.float32), obs=obs)
    return tmp_path


def change(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the key at ``path`` (dotted) set."""
    values = copy.deepcopy(values)
    inner = values
    *folders, last = path.split(".")
    for folder in folders:
        inner = inner.setdefault(folder, {})
    inner[last] = value
    return values


def load(root: Path, dataset: Any = HEART, config: Any = CONFIG) -> Project:
    """Write both files and read them."""
    (root / "config/datasets").mkdir(parents=True, exist_ok=True)
    for path, values in (("config/config.yaml", config), ("config/datasets/heart.yaml", dataset)):
        (root / path).write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return load_project(root=root)


def problems(root: Path, dataset: Any = HEART, config: Any = CONFIG) -> list[str]:
    """What is wrong with them."""
    with pytest.raises(ConfigError) as caught:
        load(root, dataset, config)
    assert all(p in str(caught.value) for p in caught.value.problems)
    return caught.value.problems


def assert_said(problem: str, said: str) -> None:
    """``.*`` stands for anything, all else for itself."""
    assert re.match(".*".join(re.escape(piece) for piece in said.split(".*")), problem), f"{problem!r} is not {said!r}"


def test_three_lines_are_a_dataset(root: Path) -> None:
    """Everything else has a default."""
    heart = "title: Heart\nsource: {kind: files, files: {a: a.h5ad}}\nexports: [hf/cells]\n"
    project = load(root, heart)
    assert project.datasets["heart"].split.fractions == {"train": 0.8, "val": 0.1, "test": 0.1}
    assert project.tokenizers_of("heart") == ["rank"]
    assert project.embedders_of("heart") == ["hvg", "pca"]


def test_what_an_export_needs_is_run_in_any_case(root: Path) -> None:
    """Though the dataset does not ask for it."""
    project = load(root, {**HEART, "tokenizers": [], "embedders": []})
    assert project.tokenizers_of("heart") == ["rank"]
    assert project.embedders_of("heart") == ["pca"]


def test_the_resolved_config_names_every_default(root: Path) -> None:
    """Of the dataset and of all that it uses; a changed default is seen."""
    resolved = load(root).resolved("heart")
    assert resolved["tokenizers"] == {
        "rank": {"kind": "rank", "empty": "keep", "max_len_tokens": 2048, "library_size": None}
    }
    assert resolved["dataset"]["quality"]["min_batch_cells"] == 50
    assert list(resolved["exports"]) == ["hf/cells"]


def test_the_shipped_configuration_is_valid(repo: Path) -> None:
    """As it stands in the repository."""
    assert load_project(root=repo).config.datasets == ["pbmc68k"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("titel", "titel: unknown key 'titel'. There: .* Did you mean 'title'?"),
        ("quality.min_gene", "quality.min_gene: unknown key 'min_gene'. There: .* Did you mean 'min_genes'?"),
        ("split.fraction", "split.fraction: unknown key 'fraction'. There: .* Did you mean 'fractions'?"),
        ("columns.labels", "columns.labels: unknown key 'labels'. There: .* Did you mean 'label'?"),
        ("source.file", "source.files.file: unknown key 'file'. There: .* Did you mean 'files'?"),
        ("xyz", "xyz: unknown key 'xyz'. There: cell_ids, .*"),
    ],
)
def test_an_unknown_key_of_a_dataset_is_named_with_the_nearest(root: Path, path: str, said: str) -> None:
    """Wherever it stands."""
    (problem,) = problems(root, change(HEART, path, 1))
    assert_said(problem, f"config/datasets/heart.yaml, {said}")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("dataset", "dataset: unknown key 'dataset'. There: .* Did you mean 'datasets'?"),
        ("tokenizers.rank.max_len", "unknown key 'max_len'. There: .* Did you mean 'max_len_tokens'?"),
        ("embedders.pca.n_component", "unknown key 'n_component'. There: .* Did you mean 'n_components'?"),
        ("exports.hf.cells.tokeniser", "unknown key 'tokeniser'. There: .* Did you mean 'tokenizer'?"),
        ("exports.hdf", "unknown key 'hdf'. There: .* Did you mean 'hdf5'?"),
    ],
)
def test_an_unknown_key_of_the_config_is_named_with_the_nearest(root: Path, path: str, said: str) -> None:
    """Of the kind that the entry is of."""
    problem = problems(root, config=change(CONFIG, path, 1))[0]
    assert_said(problem, f"config/config.yaml, .*{said}")


@pytest.mark.parametrize("path", ["tokenizers.rank.max_len", "embedders.pca.n_component", "exports.hf.cells.tokeniser"])
def test_one_wrong_key_is_one_problem(root: Path, path: str) -> None:
    """It does not make undefined what stands beside it."""
    assert len(problems(root, config=change(CONFIG, path, 1))) == 1


@pytest.mark.parametrize("family", ["tokenizers", "embedders"])
def test_a_tokenizer_or_embedder_that_no_one_defined_is_named(root: Path, family: str) -> None:
    """With those that are."""
    (problem,) = problems(root, {**HEART, family: ["rankk"]})
    there = {"tokenizers": "rank. Did you mean 'rank'?", "embedders": "hvg, pca."}[family]
    said = f"config/datasets/heart.yaml, {family}: 'rankk' is not defined in config/config.yaml. There: {there}"
    assert problem == said


def test_an_export_that_no_one_defined_is_named(root: Path) -> None:
    """With the nearest."""
    (problem,) = problems(root, {**HEART, "exports": ["hf/cell"]})
    assert_said(
        problem, ".*exports: 'hf/cell' is not defined in config/config.yaml. There: .* Did you mean 'hf/cells'?"
    )


@pytest.mark.parametrize(("key", "family"), [("tokenizer", "tokenizer"), ("embeddings", "embedder")])
def test_an_export_that_asks_for_what_no_one_defined_is_named(root: Path, key: str, family: str) -> None:
    """With its path in the config."""
    value: Any = "rnk" if key == "tokenizer" else ["pcaa"]
    (problem,) = problems(root, config=change(CONFIG, f"exports.hf.cells.{key}", value))
    assert_said(
        problem, f"config/config.yaml, exports.hf.cells: no {family} '.*' is defined. There: .* Did you mean '.*'?"
    )


@pytest.mark.parametrize(
    ("path", "known"),
    [("tokenizers.rank.kind", "rank"), ("embedders.pca.kind", "pca"), ("exports.hf.cells.kind", "tokens")],
)
def test_a_misspelt_kind_is_named_with_the_nearest(root: Path, path: str, known: str) -> None:
    """And with all there are."""
    (problem, *_) = problems(root, config=change(CONFIG, path, known + "x"))
    assert_said(problem, f"config/config.yaml, .*: no kind '{known}x'. There: .*{known}.* Did you mean '{known}'?")


def test_a_misspelt_kind_of_source_is_named_with_the_nearest(root: Path) -> None:
    """Where the data come from."""
    (problem,) = problems(root, change(HEART, "source.kind", "file"))
    assert_said(problem, "config/datasets/heart.yaml, source: no kind 'file'. There: .* Did you mean 'files'?")


def test_a_missing_kind_is_named(root: Path) -> None:
    """It is never guessed."""
    (problem,) = problems(root, {**HEART, "source": {"files": {"a": "a.h5ad"}}})
    assert_said(problem, "config/datasets/heart.yaml, source: this needs a 'kind'.")


@pytest.mark.parametrize("key", ["title", "source", "exports"])
def test_a_missing_key_is_named(root: Path, key: str) -> None:
    """There are three without a default."""
    (problem,) = problems(root, {k: v for k, v in HEART.items() if k != key})
    assert problem == f"config/datasets/heart.yaml, {key}: this key is missing."


def test_a_file_that_does_not_exist_is_named(root: Path) -> None:
    """With the config key and the path."""
    (problem,) = problems(root, change(HEART, "source.files.b", "raw/b.h5ad"))
    assert_said(problem, "config/datasets/heart.yaml, source.files.b: no such file.* Paths are relative to")


def test_an_address_is_not_looked_for_on_disk(root: Path) -> None:
    """It is retrieved later."""
    load(root, change(HEART, "source.files.b", "https://example.org/b.h5ad"))


@pytest.mark.parametrize(
    ("fractions", "said"),
    [
        ({"train": 0.8, "val": 0.1, "test": 0.2}, "the fractions add up to 1.1, not to 1."),
        ({"train": 0.5}, "the fractions add up to 0.5, not to 1."),
        ({}, "the fractions add up to 0, not to 1."),
        ({"learn": 0.9, "test": 0.1}, "there is no 'train' above 0: what is learned from the data is learned there."),
        ({"train": 0, "test": 1}, "there is no 'train' above 0: what is learned from the data is learned there."),
    ],
)
def test_fractions_that_do_not_add_up_are_named(root: Path, fractions: dict[str, float], said: str) -> None:
    """As is a split without 'train'."""
    (problem,) = problems(root, change(HEART, "split.fractions", fractions))
    assert problem == f"config/datasets/heart.yaml, split.fractions: {said}"


@pytest.mark.parametrize("value", [-0.1, 1.5, "half"])
def test_a_fraction_out_of_range_is_named(root: Path, value: Any) -> None:
    """With what was found."""
    (problem,) = problems(root, change(HEART, "split.fractions", {"train": 1 - 0.1, "val": value}))
    assert_said(problem, f"config/datasets/heart.yaml, split.fractions.val: .* Found: {value!r}.")


def test_fractions_that_add_up_but_for_rounding_are_taken(root: Path) -> None:
    """0.7 + 0.2 + 0.1 is not quite 1."""
    load(root, change(HEART, "split.fractions", {"train": 0.7, "val": 0.2, "test": 0.1}))


@pytest.mark.parametrize("key", ["columns.batch", "columns.label", "split.by"])
def test_a_column_that_the_file_does_not_have_is_named_with_the_nearest(root: Path, key: str) -> None:
    """Read from the file itself."""
    (problem,) = problems(root, change(HEART, key, "donor"))
    assert_said(
        problem, f"config/datasets/heart.yaml, {key}: no column 'donor' in a.h5ad. There: .* Did you mean 'donor_id'?"
    )


def test_a_kept_column_that_the_file_does_not_have_is_named(root: Path) -> None:
    """In the list of those to keep."""
    (problem,) = problems(root, change(HEART, "columns.keep", ["cell_type", "agee"]))
    assert_said(
        problem,
        "config/datasets/heart.yaml, columns.keep: no column 'agee' in a.h5ad. There: cell_type, donor_id, split.",
    )


def test_a_file_without_columns_has_none_of_them(root: Path) -> None:
    """And the error says so."""
    write_raw(root / "a.h5ad", np.ones((2, 3), np.float32))
    (problem,) = problems(root, change(HEART, "columns.label", "cell_type"))
    assert_said(problem, "config/datasets/heart.yaml, columns.label: no column 'cell_type' in a.h5ad. There is none.")


@pytest.mark.parametrize("column", ["split", "total_counts", "input_ids", "cell_id"])
def test_a_column_that_cellmill_writes_itself_is_refused(root: Path, column: str) -> None:
    """One of the two would be lost."""
    said = problems(root, change(HEART, "columns.keep", [column]))
    assert_said(said[0], f"config/datasets/heart.yaml, columns: '{column}' is a column that cellmill itself writes")


@pytest.mark.parametrize(
    ("mads", "said"),
    [
        ({"pct_counts_mito": 5}, "no metric 'pct_counts_mito'. There: .* Did you mean 'pct_counts_mt'?"),
        ({"pct_counts_mt": 0}, "pct_counts_mt: 0.0 MADs would drop every cell; take a number above 0, or null."),
        ({"pct_counts_mt": -3}, "pct_counts_mt: -3.0 MADs would drop every cell"),
    ],
)
def test_an_unknown_metric_is_named_with_the_nearest(root: Path, mads: dict[str, float], said: str) -> None:
    """As are bounds that leave no cell."""
    (problem,) = problems(root, change(HEART, "quality.mads", mads))
    assert_said(problem, f"config/datasets/heart.yaml, quality.mads: {said}")


@pytest.mark.parametrize(
    ("genes", "quality", "said"),
    [
        ({"mt": ["x"]}, {}, "genes.sets: 'mt': pct_counts_mt is a metric of cellmill's own; call your set otherwise."),
        ({"in_top_20_genes": ["x"]}, {}, "genes.sets: 'in_top_20_genes': pct_counts_in_top_20_genes is a metric of"),
        ({"a b": ["x"]}, {}, "genes.sets.a b.[key]: String should match pattern"),
        ({"s": []}, {}, "genes.sets: 's': it names no gene."),
        ({"s": ["*"]}, {}, "genes.sets: 's': '*' is neither a name nor how"),
        ({"s": "sets/none.txt"}, {}, "genes.sets.s: no file 'sets/none.txt'. There: genes/"),
        ({"s": "empty.txt"}, {}, "genes.sets: .*empty.txt: names no gene"),
        ({"s": "all.txt"}, {}, "genes.sets: genes.sets.s: '*' is neither a name nor how names begin, as HIST* is."),
        ({"s": ["A*B"]}, {}, "genes.sets: 's': 'A*B' is neither"),
        (
            {"s": ["ENSG00000000000"], "t": ["FOS", "JUN"]},
            {},
            "genes.sets.t: none of its 2 names is in any file: FOS, ",
        ),
        (
            {"s": ["ENSG00000000009.2", "ENSG0000000002*", "ENSG0000000001"]},
            {},
            "genes.sets.s: none of its 3 names is in",
        ),
        ({}, {"mads": {"pct_counts_s": 3}}, "quality.mads: no metric 'pct_counts_s'. There: .*"),
        (
            {"s": ["ENSG*"]},
            {"mads": {"pct_counts_t": 3}},
            "quality.mads: no metric 'pct_counts_t'. There: .*pct_counts_s",
        ),
        ({"s": ["ENSG*"]}, {"max_pct": {"t": 3}}, "quality.max_pct: no gene set 't' in genes.sets. There: s."),
        ({"s": ["ENSG*"]}, {"max_pct": {"s": 101}}, "quality.max_pct.s: Input should be less than or equal to 100."),
        ({}, {"max_pct": {"mt": 5}}, "quality.max_pct: 'mt' has a key of its own: max_pct_mt."),
        ({"s": ["ENSG*"]}, {}, "columns: 'pct_counts_s' is a column that cellmill itself writes"),
    ],
)
def test_a_wrong_gene_set_is_named(root: Path, genes: dict[str, Any], quality: dict[str, Any], said: str) -> None:
    """Before the first job: names, files, bounds, and sets of which no gene is in the local files."""
    (root / "empty.txt").write_text("gene\n")
    (root / "all.txt").write_text("ENSG00000000000\n*\n")
    heart = change(change(HEART, "genes.sets", genes), "quality", quality)
    if said.startswith("columns"):
        heart = change(heart, "columns.keep", ["pct_counts_s"])
    assert_said(problems(root, heart)[0], f"config/datasets/heart.yaml, {said}")


def test_gene_sets_that_cannot_be_looked_into_are_taken(root: Path) -> None:
    """Where a part or a gene table is yet to come; and those that are in the file, by any of its names."""
    sets = {"s": ["ensg00000000002.7"], "t": "list.txt"}
    (root / "list.txt").write_text("nothing\nENSG0000*\n")
    assert load(root, change(HEART, "genes.sets", sets)).datasets["heart"].genes.sets == sets
    elsewhere = change(HEART, "genes", {"sets": {"s": ["FOS"]}})
    assert load(root, change(elsewhere, "source.files.b", "https://example.org/b.h5ad"))
    assert load(root, change(elsewhere, "genes.table", "auto"))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"equals": "x"}, "quality.filters.0.column: this key is missing."),
        ({"column": "donor_id"}, "quality.filters.0: a filter needs exactly one of 'equals', 'in' and 'not_in'."),
        ({"column": "donor_id", "in": ["x"], "not_in": ["y"]}, "quality.filters.0: a filter needs exactly one of"),
        ({"column": "donor_id", "is": "x"}, "quality.filters.0.is: unknown key 'is'. There: column, equals, in, "),
        ({"column": "donor", "in": ["x"]}, "quality.filters: no column 'donor' in a.h5ad. There: .* mean 'donor_id'?"),
    ],
)
def test_a_wrong_filter_is_named(root: Path, rule: dict[str, Any], said: str) -> None:
    """Before the first job; its column in the file, too."""
    found = problems(root, change(HEART, "quality.filters", [rule]))
    assert_said(found[0], f"config/datasets/heart.yaml, {said}")


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"by": ["donor_id", "cell"]}, "split.by: ['donor_id', 'cell'] is no list of obs columns, each once."),
        ({"by": ["donor_id", "don"]}, "split.by: no column 'don' in a.h5ad."),
        ({"by": "donor_id", "stratify": ["cell_type"]}, "split: stratify needs 'by: cell': a group stands on one"),
        ({"stratify": ["cell_type"], "method": "hash"}, "split: stratify needs 'method: balanced'"),
        ({"stratify": ["type"]}, "split.stratify: no column 'type' in a.h5ad."),
        ({"explicit": {"tst": ["c0"]}}, "split: explicit: 'tst' is no split; give it a fraction, .*mean 'test'?"),
        ({"explicit": {"test": ["c0"], "val": ["c0"]}}, "split: explicit: c0 is listed twice."),
        ({"explicit": {"test": [["c0", "c1"]]}}, "split: explicit: ['c0', 'c1'] has 2 values, 'by' has 1."),
        ({"explicit": {"test": "cells.txt"}}, "split.explicit.test: no file 'cells.txt'. A list of values stands in"),
    ],
)
def test_a_split_that_cannot_be_is_named(root: Path, split: dict[str, Any], said: str) -> None:
    """Before the first job."""
    heart = {**HEART, "split": split}
    assert_said(problems(root, heart)[0], f"config/datasets/heart.yaml, {said}")


def test_a_doublet_score_of_ones_own_is_kept_unless_ours_takes_its_name(root: Path) -> None:
    """Published atlases carry scanpy's columns; only where doublets are looked for would one be lost."""
    write_raw(root / "a.h5ad", np.ones((2, 3), np.float32), obs={"donor_id": ["d", "e"], "doublet_score": [0.1, 0.2]})
    heart = {"title": "Heart", "source": {"kind": "files", "files": {"0": "a.h5ad"}}, "exports": ["hf/cells"]}
    heart |= {"columns": {"keep": ["doublet_score"]}}
    assert load(root, heart).datasets["heart"].exported_columns == ["doublet_score"]
    (problem,) = problems(root, heart | {"quality": {"doublets": {}}})
    assert_said(problem, "config/datasets/heart.yaml, columns: 'doublet_score' is a column that cellmill itself writes")
    ours = load(root, heart | {"columns": {}, "quality": {"doublets": {}}}).datasets["heart"]
    assert ours.exported_columns == ["doublet_score", "predicted_doublet"]


def test_the_column_of_rare_values_is_looked_up_and_stays(root: Path) -> None:
    """As every other column of the configuration."""
    heart = change(HEART, "quality.rare", {"column": "donor"})
    assert_said(problems(root, heart)[0], "config/datasets/heart.yaml, quality.rare: no column 'donor' in a.h5ad.")
    heart = change(HEART, "quality.rare", {"column": "donor_id"})
    assert "donor_id" in load(root, heart).datasets["heart"].kept_columns


@pytest.mark.parametrize("name", ["duplicates", "splits", "ledger"])
def test_a_part_with_the_name_of_a_file_of_ours_is_refused(root: Path, name: str) -> None:
    """One of the two would be lost."""
    said = problems(root, {**HEART, "source": {"kind": "files", "files": {name: "a.h5ad"}}})
    assert_said(said[0], f"config/datasets/heart.yaml, source: no part can be called '{name}': cellmill writes")


@pytest.mark.parametrize("name", ["counts", "genes"])
def test_bounds_that_leave_no_room_are_named(root: Path, name: str) -> None:
    """The largest below the least."""
    (problem,) = problems(root, {**HEART, "quality": {f"min_{name}": 5, f"max_{name}": 4}})
    assert_said(problem, f"config/datasets/heart.yaml, quality: max_{name} 4 is below min_{name} 5: no cell would be")


@pytest.mark.parametrize("name", ["a b", "../a", "a/b", "ä", "a.b", "", "-a", "{a}"])
def test_a_part_with_an_odd_name_is_refused(root: Path, name: str) -> None:
    """Names become file names and wildcards."""
    said = problems(root, {**HEART, "source": {"kind": "files", "files": {name: "a.h5ad"}}})
    assert_said(
        said[0], f"config/datasets/heart.yaml, source.files.files.{name}.*should match pattern.*Found: {name!r}."
    )


@pytest.mark.parametrize("split", ["a b", "../a", "a/b"])
def test_a_split_with_an_odd_name_is_refused(root: Path, split: str) -> None:
    """It becomes a folder."""
    said = problems(root, change(HEART, "split.fractions", {"train": 0.5, split: 0.5}))
    assert_said(said[0], "config/datasets/heart.yaml, split.fractions.*should match pattern")


def test_a_syntax_error_is_named_with_its_line(root: Path) -> None:
    """In either file."""
    (problem,) = [p for p in problems(root, "title: [Heart\nsource: x\n") if "YAML" in p]
    assert_said(problem, ".*config/datasets/heart.yaml: not valid YAML (.*line 2.*).")
    assert any("not valid YAML" in p for p in problems(root, config="datasets: [heart\n"))


@pytest.mark.parametrize(("content", "found"), [("- a\n- b\n", "list"), ("heart", "str"), ("", "NoneType")])
def test_a_file_that_is_no_map_is_named(root: Path, content: str, found: str) -> None:
    """With what it is."""
    said = problems(root, content)
    assert_said(said[0], f".*heart.yaml: found {found}, expected keys and values.")


def test_a_file_in_another_encoding_is_named(root: Path) -> None:
    """By an error of ours."""
    load(root)
    (root / "config/datasets/heart.yaml").write_bytes(b"title: Herz der M\xe4use\n")
    with pytest.raises(ConfigError, match=r"heart\.yaml"):
        load_project(root=root)


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    """By an error of ours."""
    with pytest.raises(ConfigError, match=r"config/config\.yaml"):
        load_project(root=tmp_path)


def test_a_dataset_without_a_file_is_named_with_the_nearest(root: Path) -> None:
    """As they stand in the folder."""
    (problem,) = problems(root, config={**CONFIG, "datasets": ["hart"]})
    assert problem == (
        "config/config.yaml, datasets: no file config/datasets/hart.yaml. There: heart. Did you mean 'heart'?"
    )


def test_a_dataset_with_an_odd_name_is_refused(root: Path) -> None:
    """It becomes a folder."""
    said = problems(root, config={**CONFIG, "datasets": ["../heart"]})
    assert_said(said[0], "config/config.yaml, datasets.0: .*should match pattern.*Found: '../heart'.")


def test_one_name_is_not_taken_for_its_letters(root: Path) -> None:
    """`datasets: heart` is one problem, and says what was found."""
    said = problems(root, config={**CONFIG, "datasets": "heart"})
    assert_said(said[0], "config/config.yaml, datasets: .*list.*Found: 'heart'.")
    assert len(said) <= 2


def test_no_dataset_is_a_problem(root: Path) -> None:
    """Nothing would be made, and nobody would know why."""
    (problem,) = problems(root, config={**CONFIG, "datasets": []})
    assert problem == "config/config.yaml, datasets: no dataset is named. There: heart."


def test_a_library_size_that_is_not_kept_is_named(root: Path) -> None:
    """The tokenizer reads it from the processed counts."""
    (problem,) = problems(root, config=change(CONFIG, "tokenizers.rank.library_size", "n_counts"))
    assert_said(problem, ".*columns.keep: tokenizer 'rank' takes the library size from 'n_counts', which is not kept.")


def test_geneformers_export_takes_ranked_genes_alone(root: Path) -> None:
    """Its models read genes by falling value; anything else would train on nonsense."""
    for kind in ("tahoe_x1", "scgpt", "binned", "log", "sentence"):
        config = change(CONFIG, "tokenizers.other", {"kind": kind})
        config = change(config, "exports.geneformer", {"cells": {"kind": "tokens", "tokenizer": "other"}})
        (problem,) = problems(root, config=config)
        assert_said(
            problem, f".*exports.geneformer.cells: Geneformer reads ranked genes; 'other' is of the kind {kind}."
        )
    for kind in ("rank", "geneformer_v1", "geneformer_v2"):
        config = change(CONFIG, "tokenizers.other", {"kind": kind})
        load(root, config=change(config, "exports.geneformer", {"cells": {"tokenizer": "other"}}))


def test_a_split_cannot_take_the_folder_of_the_metadata(root: Path) -> None:
    """An HDF5 export has metadata/ beside its splits; others do not mind."""
    split = {"split": {"fractions": {"train": 0.8, "metadata": 0.2}}}
    load(root, {**HEART, **split})
    (problem,) = problems(root, {**HEART, **split, "exports": ["hdf5/counts"]})
    assert_said(
        problem, ".*exports: hdf5/counts: a folder 'metadata' stands beside the splits; call that split other.*"
    )


def test_a_vocabulary_that_is_not_there_is_named(root: Path) -> None:
    """Before anything runs; only where the tokenizer is used."""
    config = change(CONFIG, "tokenizers.tahoe", {"kind": "tahoe_x1", "vocabulary": "mine.json"})
    load(root, config=config)
    (problem,) = problems(root, {**HEART, "tokenizers": ["tahoe"]}, config)
    assert_said(problem, ".*tokenizers.tahoe.vocabulary: no vocabulary or file 'mine.json'.")
    (root / "mine.json").write_text("{}")
    load(root, {**HEART, "tokenizers": ["tahoe"]}, config)


def test_a_tokenizer_takes_a_vocabulary_of_the_configuration_or_the_ledger(root: Path) -> None:
    """One that is made needs its datasets in the run, those of what it extends, too."""
    asked = {**HEART, "tokenizers": ["tahoe"]}
    for name in ("v", "vocab/scgpt_vocab.json"):
        config = change(with_vocabulary(), "tokenizers.tahoe", {"kind": "tahoe_x1", "vocabulary": name})
        load(root, asked, config)
    (root / "config/datasets/lung.yaml").write_text(yaml.safe_dump(HEART))
    config = change(with_vocabulary(extends="w"), "vocabularies.w", {"datasets": ["heart", "lung"]})
    (problem,) = problems(root, asked, change(config, "tokenizers.tahoe", {"kind": "scgpt", "vocabulary": "v"}))
    said = "'v' is made of the genes of lung, not in this run. Add it to datasets."
    assert_said(problem, f"config/config.yaml, tokenizers.tahoe.vocabulary: {said}")


def test_a_column_that_the_tokenizer_writes_is_refused(root: Path) -> None:
    """One of the two would be lost."""
    config = change(CONFIG, "tokenizers.rank", {"kind": "sentence"})
    said = problems(root, change(HEART, "columns.keep", ["cell_sentence_1"]), config)
    (problem,) = (p for p in said if "no column" not in p)
    assert_said(problem, ".*exports: hf/cells: tokenizer 'rank' writes 'cell_sentence_1' itself; rename your column.")


@pytest.mark.parametrize("edges", [[0], [1, 5], [0, 5, 5], [0, 9, 3]])
def test_edges_of_bins_rise_from_zero(root: Path, edges: list[int]) -> None:
    """At least two of them."""
    (problem,) = problems(root, config=change(CONFIG, "tokenizers.bins", {"kind": "binned", "edges": edges}))
    assert_said(problem, ".*edges must rise from 0, at least two of them")


def test_a_library_size_of_an_export_s_tokenizer_that_is_not_kept_is_named(root: Path) -> None:
    """Also where the dataset itself does not ask for the tokenizer."""
    config = change(CONFIG, "tokenizers.rank.library_size", "n_counts")
    (problem,) = problems(root, {**HEART, "tokenizers": []}, config)
    assert_said(problem, ".*tokenizer 'rank' takes the library size from 'n_counts', which is not kept.")


def test_multiplets_without_a_caption_are_named(root: Path) -> None:
    """With the two ways to name one."""
    config = change(CONFIG, "exports.hf.multiplets", {"kind": "multiplets", "sentences": None, "negatives": 1})
    (problem,) = problems(root, {**HEART, "exports": ["hf/multiplets"]}, config)
    assert_said(
        problem, ".*exports: hf/multiplets: multiplets need a caption; set columns.label, or 'captions' of this export."
    )


def text_export(root: Path, heart: dict[str, Any], **spec: Any) -> list[str]:
    """The problems of a dataset with an export of kind `multiplets`."""
    values = {"kind": "multiplets", "sentences": None, "resolve_negatives": False} | spec
    config = change(CONFIG, "exports.hf.text", values)
    return problems(root, {**HEART, "exports": ["hf/text"], **heart}, config)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"captions": ["a {cel_type}"]},
            "the caption's column 'cel_type' is not kept; .* Did you mean 'cell_type'?",
        ),
        ({"captions": ["a {cell_type"]}, "in the caption 'a {cell_type', at character 3: '{' without its partner"),
        ({"captions": ["cell_type"], "missing": "drop"}, "'missing: drop' drops clauses in brackets, and no caption"),
        ({"columns": ["doner"]}, "no column 'doner' stays with the cells. .* Did you mean 'donor'?"),
        ({"shares": {"in_batch": 0.3}}, "shares.in_batch: 0.3 of 2 negatives is 0.6, which is no whole number"),
        ({"shares": {"in_batch": 1, "hard": 0.5, "embedding": "pca"}}, "in_batch, out_of_batch and hard are shares"),
        ({"shares": {"hard": 0.5}}, "hard negatives need an embedding to be near in"),
        ({"sentences": "rank"}, "sentences: 'rank' is no tokenizer of kind sentence: it writes input_ids"),
        ({"resolve_negatives": True}, "negative_2 is a cell sentence; name a tokenizer in 'sentences'"),
    ],
)
def test_problems_of_captions_and_negatives_are_told_before_the_first_job(
    root: Path, spec: dict[str, Any], said: str
) -> None:
    """Each with what to do."""
    kept = {"columns": {"label": "cell_type", "batch": "donor"}}
    found = text_export(root, kept, **spec)
    assert any(re.search(".*".join(map(re.escape, said.split(".*"))), p) for p in found), found


def test_shares_of_batches_need_a_batch_column(root: Path) -> None:
    """And an export its own names of columns."""
    found = text_export(root, {"columns": {"label": "cell_type"}}, shares={"out_of_batch": 0.5})
    assert any("shares of batches need a batch column" in p for p in found), found
    found = text_export(root, {"columns": {"label": "cell_type", "keep": ["caption"]}}, columns=None)
    assert any("it writes 'caption' itself; rename yours" in p for p in found), found


def test_all_problems_are_told_at_once(root: Path) -> None:
    """Of both files, of every kind, in one error that counts them."""
    heart = {
        **change(HEART, "columns.label", "cel_type"),
        "tokenizers": ["rnk"],
        "embedders": ["pac"],
        "exports": ["hf/cells", "mds/tokens"],
        "titel": "Heart",
        "split": {"fractions": {"train": 0.8, "test": 0.1}},
    }
    heart["source"]["files"]["b"] = "b.h5ad"
    config = change(CONFIG, "exports.hf.cells.embeddings", ["umap"])
    with pytest.raises(ConfigError) as caught:
        load(root, heart, config)
    text = str(caught.value)
    for said in (
        "unknown key 'titel'",
        "the fractions add up to 0.9",
        "tokenizers: 'rnk' is not defined",
        "embedders: 'pac' is not defined",
        "exports: 'mds/tokens' is not defined",
        "source.files.b: no such file",
        "no column 'cel_type' in a.h5ad",
        "no embedder 'umap' is defined",
    ):
        assert said in text
    assert f"has {len(caught.value.problems)} problems:" in text
    assert len(caught.value.problems) == len(set(caught.value.problems)) == 8


def test_the_config_is_read_without_heavy_libraries() -> None:
    """It is read on every dry run."""
    code = (
        "import sys, cellmill.config; "
        "heavy = ('torch', 'scanpy', 'anndata', 'numba', 'pandas', 'sklearn', 'pyarrow'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def with_vocabulary(**values: Any) -> dict[str, Any]:
    return change(CONFIG, "vocabularies.v", {"datasets": ["heart"], **values})


def test_a_vocabulary_is_made_in_runs_that_have_its_datasets(root: Path) -> None:
    """It may extend a file, one of the ledger, or another; in other runs it is left alone."""
    (root / "old.json").write_text("{}")
    for old in ("old.json", "geneformer/token_dictionary_gc95M.pkl", "w"):
        config = change(with_vocabulary(extends=old), "vocabularies.w", {"datasets": ["heart", "lung"]})
        (root / "config/datasets").mkdir(parents=True, exist_ok=True)
        (root / "config/datasets/lung.yaml").write_text("")
        assert load(root, config=config).vocabularies() == ["v"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"datasets": ["haert"]}, "datasets: no file config/datasets/haert.yaml. There: heart. Did you mean 'heart'?"),
        ({"datasets": ["heart", "heart"]}, "datasets: a dataset stands there twice. Name each once."),
        ({"datasets": []}, "datasets: List should have at least 1 item"),
        ({"extends": "old.json"}, "extends: no vocabulary or file 'old.json'. There: .*token_dictionary_gc95M.pkl"),
        ({"extends": "v"}, "extends: in the end it extends itself (v -> v)."),
        ({"special": ["pad"]}, "special.0: String should match pattern"),
        ({"special": ["<junk0>"]}, "special.0: '<junk0>' is junk, which pad_to_multiple_of asks for."),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of: Input should be greater than or equal to 1"),
        ({"version": "strip"}, "version: unknown key 'version'. There: .* Did you mean 'versions'?"),
        ({"kind": "biuld"}, "kind: Input should be 'build'"),
    ],
)
def test_a_wrong_vocabulary_is_a_problem(root: Path, values: dict[str, Any], said: str) -> None:
    """Of what it is over, what it extends, and its rules."""
    (problem,) = problems(root, config=with_vocabulary(**values))
    assert_said(problem, f"config/config.yaml, vocabularies.v.{said}")


def test_vocabularies_that_extend_each_other_are_a_problem(root: Path) -> None:
    """Each is told."""
    config = change(with_vocabulary(extends="w"), "vocabularies.w", {"datasets": ["heart"], "extends": "v"})
    assert [p.split(": ", 1)[1] for p in problems(root, config=config)] == [
        "in the end it extends itself (v -> w -> v).",
        "in the end it extends itself (w -> v -> w).",
    ]


def test_no_dataset_is_called_vocabularies(root: Path) -> None:
    """Its folder of results has other files."""
    (root / "config/datasets").mkdir(parents=True)
    (root / "config/datasets/vocabularies.yaml").write_text(yaml.safe_dump(HEART))
    (problem,) = problems(root, config=change(CONFIG, "datasets", ["vocabularies"]))
    assert "no dataset can be called 'vocabularies'" in problem


PLANNED: dict[str, Any] = HEART | {"source": {"kind": "scbasecount", "cells": 1_000}}


def test_of_a_planned_source_no_part_is_known_and_its_counts_become_x(root: Path) -> None:
    """So that what reads the parts does not depend on where their members have their counts."""
    source = {"kind": "scbasecount", "layer": "UniqueAndMult-EM", "round": True}
    heart = load(root, HEART | {"source": source}).datasets["heart"]
    assert heart.source.planned and heart.source.parts() == []
    assert (heart.counts_of_members, heart.counts_as_found, heart.counts_in_raw) == (
        "layers/UniqueAndMult-EM",
        "X",
        "X",
    )
    sliced = load(root, change(change(HEART, "source.slice", 1), "counts", "layers/counts")).datasets["heart"]
    assert (sliced.counts_of_members, sliced.counts_as_found, sliced.counts_in_raw) == ("layers/counts", "X", "X")


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (change(PLANNED, "cell_ids", "part_barcode"), "cell_ids: planned parts have ids by file already"),
        (
            change(PLANNED, "counts", "layers/spliced"),
            "counts: 'layers/spliced' of scbasecount is named in source.layer",
        ),
        (
            change(PLANNED, "source.layer", "spliced"),
            "source.scbasecount: layer: only feature_type Velocyto has 'spliced'",
        ),
        (change(PLANNED, "source.root", "store"), "source.root: no such file 'store'"),
        (HEART | {"source": {"kind": "files", "table": "files.tsv"}}, "source.table: no such file 'files.tsv'"),
        (
            HEART | {"source": {"kind": "files", "table": "bad.tsv"}},
            "source.table: .*bad.tsv, line 1: no column 'address'",
        ),
        (
            HEART | {"source": {"kind": "files", "table": "gone.tsv"}},
            "source.table: 1 of its files are not there.*'x.h5ad'",
        ),
        (
            HEART | {"source": {"kind": "geo_archs4", "file": "human.h5"}},
            "source.file: no such file 'human.h5'",
        ),
        (
            HEART | {"counts": "layers/x", "source": {"kind": "geo_archs4", "file": "https://x.org/human.h5"}},
            "counts: 'layers/x': a file of ARCHS4 has one matrix",
        ),
        (
            HEART | {"source": {"kind": "hub", "repo": "own/atlas", "files": ["*.parquet"]}},
            "source.hub: parquet: say how",
        ),
        (HEART | {"source": {"kind": "files"}}, "source.files: name the files by exactly one of"),
    ],
    ids=[
        "ids",
        "counts",
        "layer",
        "root",
        "no table",
        "bad table",
        "no file",
        "archs4",
        "matrix",
        "parquet",
        "nothing",
    ],
)
def test_a_planned_source_is_checked_before_anything_runs(root: Path, dataset: dict[str, Any], said: str) -> None:
    """Without the network."""
    (root / "bad.tsv").write_text("adress\nx.h5ad\n")
    (root / "gone.tsv").write_text("address\nx.h5ad\n")
    (problem,) = problems(root, dataset)
    assert_said(problem, f"config/datasets/heart.yaml, {said}")


def test_what_concerns_one_part_says_nothing_of_the_others(root: Path) -> None:
    """It is a param of the job: another file, filter or number of cells retrieves no part anew."""
    write_raw(root / "b.h5ad", np.ones((2, 3), np.float32))
    one = load(root).datasets["heart"].source.of("a")
    two = load(root, change(HEART, "source.files.b", "b.h5ad")).datasets["heart"].source.of("a")
    assert one == two
    few, many = (load(root, change(PLANNED, "source.cells", n)).datasets["heart"].source.of("0000") for n in (1, 2))
    assert few == many


def test_a_release_may_be_written_without_quotes(root: Path) -> None:
    """YAML takes it for a date."""
    heart = "title: Heart\nsource: {kind: scbasecount, release: 2025-02-25}\nexports: [hf/cells]\n"
    assert load(root, heart).datasets["heart"].source.release == "2025-02-25"


def test_filters_of_a_source_are_judged_before_those_of_the_dataset(root: Path) -> None:
    """By every rule that looks at cells; the options of the dataset stay as they were said."""
    quality = {"filters": [{"column": "sex", "in": ["male"]}]}
    source = {"kind": "census", "filters": [{"column": "tissue", "in": ["lung"]}]}
    heart = load(root, HEART | {"source": source, "quality": quality, "subset": {"cells": 5}}).datasets["heart"]
    expected = ["is_primary_data", "tissue", "sex"]
    for rules in (heart.label_rules, heart.subset_rules, heart.threshold_rules, heart.cell_rules.quality):
        assert [rule.column for rule in rules.filters] == expected
    assert [rule.column for rule in heart.quality.filters] == ["sex"]


SHIPPED = sorted(p.stem for p in (Path(__file__).parents[2] / "config" / "datasets").glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_dataset_that_ships_is_valid_by_itself(name: str, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the network, and with the configuration that ships."""
    monkeypatch.chdir(repo)
    project = load_datasets([name])
    spec = project.datasets[name]
    assert list(project.datasets) == [name] and spec.exports
    assert spec.source.planned or spec.source.parts()


def with_model(**embedder: Any) -> dict[str, Any]:
    """A configuration that has an embedder over tokens."""
    tokenizers = {"v1": {"kind": "geneformer_v1"}, "v2": {"kind": "geneformer_v2"}, "log": {"kind": "log"}}
    tokenizers |= {"scgpt": {"kind": "scgpt"}, "no_cls": {"kind": "scgpt", "cls": False}}
    tokenizers |= {"tahoe": {"kind": "tahoe_x1"}}
    config = change(CONFIG, "tokenizers", CONFIG["tokenizers"] | tokenizers)
    return change(config, "embedders.model", {"tokenizer": "v1", "model": "m"} | embedder)


@pytest.mark.parametrize(
    ("embedder", "said"),
    [
        ({"kind": "geneformer"}, r"embedders\.model\.model: no config\.json in 'm'\. Name a folder with a model"),
        (
            {"kind": "geneformer", "tokenizer": "v3"},
            r"tokenizer: no tokenizer 'v3' is defined\. There: log, no_cls, rank, scgpt, tahoe, v1, v2",
        ),
        ({"kind": "geneformer", "tokenizer": "log"}, r"'log' is of the kind log\. Name one of the kind rank, gene"),
        ({"kind": "geneformer", "pooling": "cls"}, r"pooling: cells of 'v1' do not begin with <cls>"),
        ({"kind": "transformer", "tokenizer": "scgpt"}, r"'scgpt' writes genes and expressions, no input_ids"),
        ({"kind": "scgpt", "tokenizer": "scgpt"}, r"model: no args\.json, vocab\.json, best_model\.pt in 'm'"),
        ({"kind": "scgpt", "tokenizer": "rank"}, r"'rank' writes input_ids, no genes and expressions"),
        ({"kind": "scgpt", "tokenizer": "no_cls"}, r"cells of 'no_cls' do not begin with <cls>\. Set its cls: true"),
        (
            {"kind": "scgpt", "tokenizer": "tahoe"},
            r"scGPT reads tokens of the kind scgpt; 'tahoe' is of the kind tahoe",
        ),
        ({"kind": "geneformer", "layers": [1]}, "less than or equal to 0"),
        ({"kind": "geneformer", "layers": []}, "at least 1 item"),
    ],
)
def test_a_model_that_cannot_be_run_is_told(root: Path, embedder: dict[str, Any], said: str) -> None:
    """Before the first job."""
    with pytest.raises(ConfigError, match=said):
        load(root, {**HEART, "embedders": ["model"]}, with_model(**embedder))


def test_embedders_are_judged_by_label_and_batch(root: Path) -> None:
    """Those of `columns`, or those that `judge` names; without any, and with `judge: null`, they are not."""
    assert load(root).datasets["heart"].judge_rules is None
    heart = change(HEART, "columns", {"label": "cell_type", "batch": "donor_id"})
    rules = load(root, heart).datasets["heart"].judge_rules
    assert rules is not None and (rules.labels, rules.batch, rules.tested_on) == (["cell_type"], "donor_id", "test")
    rules = load(root, change(heart, "judge", {"labels": ["donor_id", "cell_type"]})).datasets["heart"].judge_rules
    assert rules is not None and rules.labels == rules.columns == ["donor_id", "cell_type"]
    assert load(root, change(heart, "judge", None)).datasets["heart"].judge_rules is None
    others = change(heart, "split", {"fractions": {"train": 0.5, "val": 0.5}})
    rules = load(root, others).datasets["heart"].judge_rules
    assert rules is not None and rules.tested_on is None


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ({"labels": ["donor_id"]}, "judge: 'donor_id' does not stay with the cells. Name it in columns.keep."),
        ({"batch": "donor_id"}, "judge: 'donor_id' does not stay with the cells. Name it in columns.keep."),
        ({"tested_on": "tset"}, "judge.tested_on: no split 'tset' to test on. There: test, val. Did you mean 'test'?"),
        ({"tested_on": "train"}, "judge.tested_on: no split 'train' to test on. There: test, val."),
        ({"cells": 10}, "judge.cells: Input should be greater than or equal to 100. Found: 10."),
    ],
)
def test_what_embedders_cannot_be_judged_by_is_told(root: Path, judge: dict[str, Any], said: str) -> None:
    """Before the first job."""
    (problem,) = problems(root, change(change(HEART, "columns", {"label": "cell_type"}), "judge", judge))
    assert_said(problem, f"config/datasets/heart.yaml, {said}")


def test_the_tokens_of_a_model_are_made(root: Path) -> None:
    """Though nobody asks for them by name; a model that nobody asks for need not be there."""
    config = with_model(kind="geneformer")
    assert load(root, HEART, config).embedders_of("heart") == ["hvg", "pca"]
    (root / "m").mkdir()
    (root / "m/config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"no weights in 'm'\. There must be model\*\.safetensors or"):
        load(root, {**HEART, "embedders": ["model"]}, config)
    (root / "m/model.safetensors").write_bytes(b"")
    assert "v1" in load(root, {**HEART, "embedders": ["model"]}, config).tokenizers_of("heart")
