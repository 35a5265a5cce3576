"""Metadata by accession: what SRA and BioSample say, from a stand-in that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cellmill.contracts import parquet
from cellmill.contracts.versions import ENRICHED
from cellmill.errors import CellmillError
from cellmill.patience import Patience
from cellmill.sources.enrich import enrich_samples
from cellmill.sources.entrez import BATCH, KEY_VARIABLE, SERVER_VARIABLE
from cellmill.sources.obs_rules import Enrich

from .fake_entrez import Eutils, Fault, Sample, cut, fine, refuse, say
from .stages import random_counts, write_raw

SAMPLES = [
    Sample(1, {"tissue": "lung", "sex": "female", "Cell Type": "T cell"}),
    Sample(2, {"tissue": "liver", "sex": "not collected"}, runs=2),
    Sample(3, {"tissue": "kidney"}, title="Reanalysis of GSM10 and SRX10"),
]
PATIENCE = Patience(tries=3, first_wait_s=0.01, longest_wait_s=0.02)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Eutils]:
    with Eutils(SAMPLES) as made:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv(SERVER_VARIABLE, made.address)
        monkeypatch.setenv(KEY_VARIABLE, "s3cret")  # ten requests in a second
        yield made


def enriched(folder: Path, accessions: list[Any], **spec: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table by accession, and its facts."""
    raw = write_raw(folder / "p.h5ad", random_counts(len(accessions), 3), obs={"acc": pd.Categorical(accessions)})
    out = folder / "tables" / "enriched.parquet"
    asked = {"by": "acc", "columns": ["tissue"]} | spec
    enrich_samples([raw], spec=Enrich.model_validate(asked), out=out, patience=PATIENCE)
    table, facts = parquet.read(out, ENRICHED)
    return table.to_pandas().set_index("accession"), facts


def test_every_kind_of_accession_finds_its_sample(server: Eutils, tmp_path: Path):
    """Runs, experiments and samples of SRA, BioSamples and samples of GEO; what is not there is counted."""
    accessions = ["SRR10", "SRX20", "SRS30", "SAMN00000002", "GSM10", "SRX99999", "none", None, "SRX20"]
    columns = ["tissue", "cell_type", "study_title", "library_layout", "organism", "run_accession", "package"]
    found, facts = enriched(tmp_path, accessions, columns=columns)
    assert found["tissue"].to_dict() == {
        "GSM10": "lung", "SAMN00000002": "liver", "SRR10": "lung", "SRS30": "kidney", "SRX20": "liver",
    }  # fmt: skip
    assert found.loc["SRR10"].tolist()[1:] == [
        "T cell", "A lung atlas & more", "PAIRED", "Homo sapiens", "SRR10", "Generic.1.0",
    ]  # fmt: skip
    assert found.loc["SAMN00000002", "run_accession"] == "SRR20; SRR21"
    assert found["cell_type"].isna().sum() == 3
    assert facts["accessions"] == 6 and facts["found"] == 5 and facts["lacking"] == ["SRX99999"]
    assert facts["with_value"]["cell_type"] == 2 and "instrument_model" in facts["there"]


@pytest.mark.parametrize(
    ("sources", "expected"), [(["sra", "biosample"], "lung"), (["biosample", "sra"], "lung (BioSample)")]
)
def test_the_first_source_that_has_a_value_gives_it(server: Eutils, tmp_path: Path, sources: list[str], expected: str):
    """And the other gives what the first does not have."""
    found, _ = enriched(tmp_path, ["SRX10"], **{"from": sources}, columns=["tissue", "owner", "library_source"])
    assert found.loc["SRX10"].tolist() == [expected, "GEO", "TRANSCRIPTOMIC SINGLE CELL"]


def test_only_what_is_needed_is_asked_for(server: Eutils, tmp_path: Path):
    """BioSamples of BioSample alone; runs of BioSample by way of SRA; nothing of BioSample where it is not named."""
    enriched(tmp_path / "a", ["SAMN00000001"], **{"from": ["biosample"]})
    assert {form["db"] for form in server.asked("esearch")} == {"biosample"}
    server.seen.clear()
    found, _ = enriched(tmp_path / "b", ["SRR10"], **{"from": ["biosample"]})
    assert found.loc["SRR10", "tissue"] == "lung (BioSample)"
    server.seen.clear()
    enriched(tmp_path / "c", ["SRR10"], **{"from": ["sra"]})
    assert {form["db"] for form in server.asked("esearch")} == {"sra"}


FAULTS: dict[str, list[Fault]] = {
    "429": [refuse(429, Retry_After="0"), fine, refuse(429)],
    "503": [refuse(503), fine, refuse(503)],
    "cut": [cut, fine, cut],
    "empty": [say(b""), fine, say(b"")],
    "no record": [say(b'{"esearchresult": {"count": "2", "idlist": []}}'), fine, say(b"<EXPERIMENT_PACKAGE_SET/>")],
    "a page": [say(b"<html>busy"), fine, say(b"<html>busy")],
    "an empty search": [say(b'{"esearchresult": {"count": "0", "idlist": []}}')],
    "entities": [fine, say(b'<!DOCTYPE a [<!ENTITY b "bb">]><a>&b;</a>')],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_a_fault_that_passes_changes_nothing(server: Eutils, tmp_path: Path, faults: list[Fault]):
    """In the search or in the answer."""
    server.faults += faults
    found, _ = enriched(tmp_path, ["SRX10", "SRX20"])
    assert found["tissue"].tolist() == ["lung", "liver"] and not server.faults


@pytest.mark.parametrize("fault", [refuse(503), say(b""), cut], ids=["503", "empty", "cut"])
def test_a_fault_that_stays_is_an_error_and_never_a_loop(server: Eutils, tmp_path: Path, fault: Fault):
    """After as many tries as there is patience for; nothing is written, and the key is not told."""
    server.faults += [fault] * 50
    with pytest.raises(CellmillError, match="E-utilities, sra: gave up after 3 tries") as error:
        enriched(tmp_path, ["SRX10"])
    assert len(server.seen) == 3 and not list((tmp_path / "tables").glob("*.parquet"))
    assert "s3cret" not in str(error.value)


def test_a_wrong_key_is_an_error_that_does_not_tell_it(server: Eutils, tmp_path: Path, caplog: Any):
    """Other refusals are final; the key is in the body alone."""
    server.faults += [refuse(503), refuse(400)]
    with pytest.raises(CellmillError, match=r"HTTP 400 to esearch\.fcgi\. Check NCBI_API_KEY") as error:
        enriched(tmp_path, ["SRX10"])
    assert "s3cret" not in str(error.value) + caplog.text
    assert all("s3cret" not in path and form["api_key"] == "s3cret" for _, path, form, _ in server.seen)


def test_a_record_of_another_accession_is_left_out(server: Eutils, tmp_path: Path):
    """A search finds what merely mentions an accession, and an answer may be of something else."""
    found, _ = enriched(tmp_path / "a", ["GSM10"])
    assert found["tissue"].to_dict() == {"GSM10": "lung"}
    server.faults += [
        fine,
        say(f"<EXPERIMENT_PACKAGE_SET>{SAMPLES[1].package(0) * 2}</EXPERIMENT_PACKAGE_SET>".encode()),
    ]
    found, facts = enriched(tmp_path / "b", ["GSM10"])
    assert found.empty and facts["lacking"] == ["GSM10"]


def test_some_records_are_better_than_none(server: Eutils, tmp_path: Path):
    """Where the server gives fewer than it found, again and again, the others are missing."""
    one = f"<EXPERIMENT_PACKAGE_SET>{SAMPLES[1].package(0)}</EXPERIMENT_PACKAGE_SET>".encode()
    server.faults += [fine, say(one), say(one), say(one)]
    found, facts = enriched(tmp_path, ["SRX30", "SRX20"], **{"from": ["sra"]})
    assert list(found.index) == ["SRX20"] and facts["lacking"] == ["SRX30"]


def test_a_rerun_asks_for_what_lacks_alone(server: Eutils, tmp_path: Path):
    """Also after a kill in the middle of a line; the table is the same as of one run."""
    enriched(tmp_path, ["SRX10", "SRX20"])
    kept = tmp_path / "tables" / "entrez" / "sra.jsonl"
    lines = kept.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["accession"] for line in lines] == ["SRX10", "SRX20"]
    kept.write_bytes(lines[0] + lines[1][:40])
    server.seen.clear()
    enriched(tmp_path, ["SRX10", "SRX20", "SRX30"])
    assert [form["term"] for form in server.asked("esearch") if form["db"] == "sra"] == ["SRX20 OR SRX30"]
    again = (tmp_path / "tables" / "enriched.parquet").read_bytes()
    enriched(tmp_path / "fresh", ["SRX30", "SRX20", "SRX10"])
    assert (tmp_path / "fresh" / "tables" / "enriched.parquet").read_bytes() == again


def test_many_accessions_are_asked_for_in_batches_and_slowly(
    server: Eutils, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """200 at once, by POST, and no more than three requests in a second without a key."""
    monkeypatch.delenv(KEY_VARIABLE)
    server.samples = [Sample(i, {"tissue": f"t{i}"}) for i in range(1, BATCH + 2)]
    found, _ = enriched(tmp_path, [s.accession("SRX") for s in server.samples], **{"from": ["sra"]})
    assert found["tissue"].to_dict() == {s.accession("SRX"): f"t{s.number}" for s in server.samples}
    assert [len(form["term"].split(" OR ")) for form in server.asked("esearch")] == [200, 1]
    times = [at for *_, at in server.seen]
    assert len(times) == 4 and times[-1] - times[0] >= 3 * 0.33
    assert "api_key" not in server.seen[0][2]


def test_what_cannot_be_looked_up_is_refused(server: Eutils, tmp_path: Path):
    """No accession at all, a column that no sample has; other values are counted."""
    with pytest.raises(CellmillError, match=r"it has no accession, but values such as 'donor 1'"):
        enriched(tmp_path / "a", ["donor 1"])
    with pytest.raises(CellmillError, match=r"none of 1 samples has 'tisue'\..* Did you mean 'tissue'"):
        enriched(tmp_path / "b", ["SRX10"], columns=["tisue"])
    assert enriched(tmp_path / "c", ["SRX10", "donor 1"])[1]["no_accessions"] == 1
