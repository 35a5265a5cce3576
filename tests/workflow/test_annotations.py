"""Words for missing values, joins, metadata by accession and pseudo-bulk through the whole workflow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from cellmill.contracts import ledger as ledger_files
from cellmill.contracts.profiles import read_facts
from cellmill.sources.entrez import KEY_VARIABLE, SERVER_VARIABLE

from ..unit.fake_entrez import Sample, refuse, running, say
from ..unit.stages import random_counts, write_raw
from .project import Project, digests

CONFIG = ["--config", 'datasets=["whole","parts","drawn"]']
CELLS = 300
SAMPLES = [Sample(i, {"tissue": f"tissue {i}", "sex": ["female", "male", "not collected"][i - 1]}) for i in (1, 2, 3)]


@dataclass(frozen=True)
class Made:
    """A finished run, and how often the server was asked."""

    project: Project
    asked: int
    obs: pd.DataFrame
    counts: pd.DataFrame

    def shards(self, dataset: str) -> pd.DataFrame:
        folder = self.project.results(dataset) / "hf" / "plain"
        return pd.concat(pd.read_parquet(path) for path in sorted(folder.glob("*/*.parquet"))).set_index("cell_id")


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
        "exports": ["hf/plain"],
    } | more


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """The same cells in one part and in two, and a subset; the first answers are faults."""
    project = Project.create(tmp_path_factory.mktemp("annotations"))
    project.edit_config({"exports": {"hf": {"plain": {"kind": "expression", "max_classes": 0}}}})
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
    project.write_dataset("whole", **spec("whole", {"w": "data/w.h5ad"}))
    parts = {"a": "data/a.h5ad", "b": "data/b.h5ad"}
    project.write_dataset("parts", **spec("parts", parts, keep_raw=False))
    subset = {"cells": 30, "stratify": ["tissue", "age"], "proportions": "equal"}
    project.write_dataset("drawn", **spec("drawn", parts, subset=subset, pseudobulk={}))
    with running(SAMPLES) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv(SERVER_VARIABLE, server.address)
        patch.setenv(KEY_VARIABLE, "s3cret")
        server.faults += [refuse(429, Retry_After="1"), say(b"")]
        project.run(*CONFIG)
        table = pd.DataFrame(whole.X.toarray(), obs.index, whole.var_names)
        yield Made(project, len(server.seen), obs, table)


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


def test_joined_columns_are_in_the_export_and_decide_as_any_other(made: Made) -> None:
    """A filter by what BioSample says, batches and labels by joined columns, the same of one part and of two."""
    wanted = expected(made)
    wanted = wanted[wanted["sex"].notna() & (wanted["sex"] != "male")]
    for dataset in ("whole", "parts"):
        cells = made.shards(dataset).sort_index()
        assert list(cells.index) == sorted(wanted.index) and set(wanted["sex"]) == {"female"}
        for column in ("tissue", "sex", "lab", "donor", "age"):
            found, said = cells[column], wanted.sort_index()[column]
            assert found.isna().tolist() == said.isna().tolist(), column
            assert found.dropna().tolist() == said.dropna().tolist(), column


def test_what_was_matched_is_in_the_ledger_and_on_the_page(made: Made) -> None:
    """Cells without a key, without a row, and words that became missing values."""
    wanted = expected(made)
    for dataset in ("whole", "parts", "drawn"):
        _, facts = ledger_files.read_ledger(made.project.results(dataset) / "quality" / "ledger.parquet")
        said = facts["annotations"]
        assert said["missing"]["srx"] == wanted["srx"].isna().sum() > 0
        assert said["missing"]["donor"] == wanted["donor"].isna().sum() > 0
        enriched, joined = said["joins"]
        assert enriched["unmatched"] == (wanted["srx"] == "SRX990").sum() and enriched["examples"] == ["SRX990"]
        assert joined["matched"] == wanted["donor"].isin(["d1", "d2", "d3"]).sum()
        assert joined["examples"] == ["d4"] and joined["without_key"] == said["missing"]["donor"]
        page = (made.project.results(dataset) / "report" / "index.html").read_text()
        assert "data/donors.csv" in page and "SRX990" in page


def test_a_subset_is_drawn_by_joined_columns(made: Made) -> None:
    """Strata of what a sample and a donor say; its raw files have the columns."""
    folder = made.project.results("drawn")
    drawn = pd.concat(anndata.read_h5ad(folder / "raw" / f"{p}.h5ad").obs for p in "ab")
    assert len(drawn) == 30 and set(drawn["sex"]) == {"female"} and {"age", "lab", "tissue"} <= set(drawn.columns)
    assert not (folder / "found").exists() or not list((folder / "found").iterdir())


def test_profiles_are_exact_and_the_same_for_any_parts(made: Made) -> None:
    """Sums by tissue and donor of the kept cells; raw files that are not kept are gone."""
    paths = [made.project.results(d) / "pseudobulk" / "groups.h5ad" for d in ("whole", "parts")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    found, facts = anndata.read_h5ad(paths[0]), read_facts(paths[0])
    profiles = found[found.obs["profile"] == "pseudobulk"]
    cells = made.shards("whole")
    sums = made.counts.loc[cells.index].groupby([cells["tissue"], cells["donor"]]).sum()
    assert facts["cells"] == len(cells) and profiles.n_obs == len(sums) == facts["profiles"] > 1
    wanted = sums.loc[list(zip(profiles.obs["tissue"], profiles.obs["donor"], strict=True)), found.var_names]
    np.testing.assert_array_equal(profiles.X.toarray(), wanted)
    assert facts["single_cells"] == 2 * facts["profiles"] and facts["profiles_across_splits"] == 0
    assert not list((made.project.results("parts") / "raw").glob("*.h5ad"))


def test_another_table_costs_no_download_and_a_rerun_asks_for_nothing(made: Made, tmp_path: Path) -> None:
    """The raw files and what was looked up stay; nothing is planned where nothing changed."""
    assert made.project.planned(*CONFIG) == {}
    before = digests(made.project.root / "results")
    table = made.project.root / "data" / "donors.csv"
    text = table.read_text()
    table.write_text(text.replace("41", "42"))
    planned = made.project.planned("--config", 'datasets=["whole"]')
    table.write_text(text)
    assert planned["annotate_part"] == 1 and not {"retrieve_part", "enrich_samples"} & set(planned)
    assert digests(made.project.root / "results") == before
    logs = "".join(path.read_text() for path in (made.project.root / "logs").rglob("*.log"))
    assert "s3cret" not in logs and made.asked == 3 * 4 + 2
