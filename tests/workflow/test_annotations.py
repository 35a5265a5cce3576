"""Words for missing values, joins, metadata by accession and pseudo-bulk through the whole workflow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from cellmill.contracts import ledger as ledger_files
from cellmill.contracts.profiles import read_facts
from cellmill.sources.entrez import KEY_VARIABLE, SERVER_VARIABLE

from ..unit.fake_entrez import Eutils, Sample, refuse, say
from ..unit.stages import random_counts, write_raw
from .project import Project

CONFIG = ["--config", 'datasets=["parts","drawn"]']
TARGETS = ["results/parts/pseudobulk/groups.h5ad", *(f"results/{d}/quality/ledger.parquet" for d in ("parts", "drawn"))]
CELLS = 300
SAMPLES = [Sample(i, {"tissue": f"tissue {i}", "sex": ["female", "male", "not collected"][i - 1]}) for i in (1, 2, 3)]


@dataclass(frozen=True)
class Made:
    """A finished run, and the cells that went in."""

    project: Project
    obs: pd.DataFrame
    counts: pd.DataFrame


def spec(name: str, files: dict[str, str], **more: Any) -> dict[str, Any]:
    return {
        "title": name,
        "source": {"kind": "files", "files": files},
        "missing": True,
        "enrich": {"by": "srx", "columns": ["tissue", "sex"]},
        "join": [{"table": "data/donors.csv", "by": "donor", "columns": ["age", "lab"]}],
        "columns": {"batch": "lab", "label": "tissue", "keep": ["donor", "sex", "age"]},
        "quality": {"mads": {}, "min_counts": 0, "min_genes": 0, "filters": [{"column": "sex", "not_in": ["male"]}]},
        "split": {"by": "donor", "fractions": {"train": 0.5, "val": 0.5}},
        "pseudobulk": {"groups": {"by": ["tissue", "donor"], "min_cells": 5, "keep_cells": 2}},
        "tokenizers": [],
        "embedders": [],
        "exports": [],
    } | more


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Cells in two parts, whole and a subset, up to the ledger and the profiles; the first answers are faults."""
    project = Project.create(tmp_path_factory.mktemp("annotations"))
    data = project.root / "data"
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "srx": np.array(["SRX10", "SRX20", "SRX30", "SRX990", "unsure"], object)[rng.integers(0, 5, CELLS)],
            "donor": np.array(["d1", "d2", "d3", "d4", "Unknown"], object)[rng.integers(0, 5, CELLS)],
        },
        index=[f"c{i}" for i in range(CELLS)],
    )
    whole = anndata.read_h5ad(write_raw(data / "w.h5ad", random_counts(CELLS, 40), cells=list(obs.index), obs=obs))
    for part, rows in {"a": slice(0, 180), "b": slice(180, None)}.items():
        whole[rows].copy().write_h5ad(data / f"{part}.h5ad")
    (data / "donors.csv").write_text("donor,age,lab,other\nd1,30,A,x\nd2,41,B,x\nd3,NA,none,x\n")
    parts = {"a": "data/a.h5ad", "b": "data/b.h5ad"}
    project.write_dataset("parts", **spec("parts", parts, keep_raw=False))
    subset = {"cells": 30, "stratify": ["tissue", "age"], "proportions": "equal"}
    project.write_dataset("drawn", **spec("drawn", parts, subset=subset, pseudobulk={}))
    with Eutils(SAMPLES) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv(SERVER_VARIABLE, server.address)
        patch.setenv(KEY_VARIABLE, "s3cret")
        server.faults += [refuse(429, Retry_After="1"), say(b"")]
        project.run(*CONFIG, "--", *TARGETS)
        table = pd.DataFrame(whole.X.toarray(), obs.index, whole.var_names)
        yield Made(project, obs, table)


def expected(made: Made) -> pd.DataFrame:
    """What obs should say, by pandas; missing as None."""
    obs = made.obs.replace({"unsure": None, "Unknown": None})
    by_sample = {s.accession("SRX"): s.attributes for s in SAMPLES}
    for column in ("tissue", "sex"):
        obs[column] = [by_sample.get(a, {}).get(column) for a in obs["srx"]]
    obs["sex"] = obs["sex"].replace({"not collected": None})
    obs["lab"] = obs["donor"].map({"d1": "A", "d2": "B"})
    obs["age"] = obs["donor"].map({"d1": 30, "d2": 41})
    return obs


def test_joined_columns_stay_with_the_cells_and_decide_as_any_other(made: Made) -> None:
    """A filter by what BioSample says, a batch and a label by joined columns; types are those of the tables."""
    wanted = expected(made)
    wanted = wanted[wanted["sex"].notna() & (wanted["sex"] != "male")].sort_index()
    folder = made.project.results("parts") / "processed"
    cells = pd.concat(anndata.read_h5ad(folder / f"{p}.h5ad").obs for p in "ab").sort_index()
    assert list(cells.index) == list(wanted.index) and set(wanted["sex"]) == {"female"}
    for column in ("tissue", "sex", "lab", "donor", "age"):
        assert cells[column].isna().tolist() == wanted[column].isna().tolist(), column
        assert cells[column].dropna().tolist() == wanted[column].dropna().tolist(), column


def test_what_was_matched_is_in_the_ledger(made: Made) -> None:
    """Cells without a key, without a row, and words that became missing values; the key of the server in no log."""
    wanted = expected(made)
    for dataset in ("parts", "drawn"):
        _, facts = ledger_files.read_ledger(made.project.results(dataset) / "quality" / "ledger.parquet")
        said = facts["annotations"]
        assert said["missing"]["srx"] == wanted["srx"].isna().sum() > 0
        assert said["missing"]["donor"] == wanted["donor"].isna().sum() > 0
        enriched, joined = said["joins"]
        assert enriched["unmatched"] == (wanted["srx"] == "SRX990").sum() and enriched["examples"] == ["SRX990"]
        assert joined["matched"] == wanted["donor"].isin(["d1", "d2", "d3"]).sum()
        assert joined["examples"] == ["d4"] and joined["without_key"] == said["missing"]["donor"]
    assert "s3cret" not in "".join(path.read_text() for path in (made.project.root / "logs").rglob("*.log"))


def test_a_subset_is_drawn_by_joined_columns(made: Made) -> None:
    """Strata of what a sample and a donor say; its raw files have the columns."""
    folder = made.project.results("drawn")
    drawn = pd.concat(anndata.read_h5ad(folder / "raw" / f"{p}.h5ad").obs for p in "ab")
    assert len(drawn) == 30 and set(drawn["sex"]) == {"female"} and {"age", "lab", "tissue"} <= set(drawn.columns)
    assert not (folder / "found").exists() or not list((folder / "found").iterdir())


def test_profiles_are_exact(made: Made) -> None:
    """Sums by tissue and donor of the kept cells of both parts."""
    path = made.project.results("parts") / "pseudobulk" / "groups.h5ad"
    found, facts = anndata.read_h5ad(path), read_facts(path)
    profiles = found[found.obs["profile"] == "pseudobulk"]
    wanted = expected(made)
    cells = wanted[wanted["sex"].notna() & (wanted["sex"] != "male")]
    sums = made.counts.loc[cells.index].groupby([cells["tissue"], cells["donor"]]).sum()
    assert facts["cells"] == len(cells) and profiles.n_obs == len(sums) == facts["profiles"] > 1
    rows = sums.loc[list(zip(profiles.obs["tissue"], profiles.obs["donor"], strict=True)), found.var_names]
    np.testing.assert_array_equal(profiles.X.toarray(), rows)
    assert facts["single_cells"] == 2 * facts["profiles"] and facts["profiles_across_splits"] == 0
