"""``tables/enriched.parquet``: what SRA and BioSample say of the samples of a dataset, by accession."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import pyarrow as pa

from cellmill.contracts import parquet
from cellmill.contracts.counts import to_arrow
from cellmill.contracts.versions import ENRICHED
from cellmill.errors import CellmillError, nearest
from cellmill.matrix.reader import CountsFile, open_h5ad
from cellmill.matrix.tables import column_names, read_column
from cellmill.patience import PATIENCE, Patience
from cellmill.progress import progress
from cellmill.quality.metrics import obs_column
from cellmill.sources.entrez import ACCESSION, BATCH, Database, Entrez
from cellmill.sources.obs_rules import MISSING_WORDS, Enrich

log = logging.getLogger("cellmill")
EXAMPLES = 5


def enrich_samples(
    found: Sequence[str | PathLike[str]],
    *,
    spec: Enrich,
    out: str | PathLike[str],
    patience: Patience = PATIENCE,
) -> None:
    """Look up the accessions of an obs column, and write a row for each that is found.

    What was fetched is kept in ``entrez/`` beside ``out``, by accession, so that another call asks for the rest alone.

    Args:
        found: the parts as found; of them the one obs column is read.

    Raises:
        CellmillError: no accession, a column that no record has, or a server that failed for too long.
    """
    asked, others = _accessions(found, spec.by)
    cache = Path(out).parent / "entrez"
    first, second = (_Store(cache / f"{name}.jsonl") for name in ("sra", "biosample"))
    with Entrez(patience=patience) as server:
        if spec.reads_sra(asked):
            first.fill(server, "sra", [a for a in asked if "sra" in spec.from_ or not a.startswith("SAM")])
        samples = {a: _samples_of(a, first.known.get(a, [])) for a in asked}
        if "biosample" in spec.from_:
            second.fill(server, "biosample", sorted({s for mine in samples.values() for s in mine}))
    stores: dict[str, dict[str, list[dict[str, str]]]] = {
        "sra": first.known,
        "biosample": {a: [r for s in mine for r in second.known.get(s, [])] for a, mine in samples.items()},
    }
    rows = {a: [_merged(stores[name].get(a, [])) for name in spec.from_] for a in asked}
    rows = {a: values for a, values in rows.items() if any(values)}
    names = sorted({name for values in rows.values() for one in values for name in one})
    for column in spec.columns:
        if rows and column not in names:
            raise CellmillError(
                "enrich.columns", f"none of {len(rows):,} samples has '{column}'.", nearest(column, names)
            )
    lacking = [a for a in asked if a not in rows]
    if lacking:
        log.warning("%d of %d accessions have no record: %s", len(lacking), len(asked), ", ".join(lacking[:EXAMPLES]))
    columns = {c: [next((v[c] for v in values if c in v), None) for values in rows.values()] for c in spec.columns}
    accessions = pa.array(list(rows), pa.string())
    table = pa.table({"accession": accessions, **{c: pa.array(v, pa.string()) for c, v in columns.items()}})
    facts = {
        "by": spec.by,
        "from": spec.from_,
        "accessions": len(asked),
        "found": len(rows),
        "lacking": lacking[:EXAMPLES],
        "no_accessions": others,
        "with_value": {c: sum(v is not None for v in values) for c, values in columns.items()},
        "there": names,
    }
    parquet.write(out, table, ENRICHED, facts)


def _accessions(found: Sequence[str | PathLike[str]], column: str) -> tuple[list[str], int]:
    """The accessions of all parts, sorted, and how many other values there are; words for missing values are none."""
    texts: set[str] = set()
    for path in found:
        texts.update(t for t in to_arrow(_column(Path(path), column)).unique().to_pylist() if t is not None)
    texts = {t for t in texts if t.strip().lower() not in MISSING_WORDS}
    asked = sorted(t for t in texts if ACCESSION.fullmatch(t))
    others = sorted(texts.difference(asked))
    if not asked:
        shown = f", but values such as '{others[0]}'" if others else ""
        raise CellmillError(
            f"enrich.by '{column}'", f"it has no accession{shown}.", "Name a column of SRR, SRX, SRS, SAMN or GSM."
        )
    if others:
        log.warning("%s: %d values are no accessions: %s", column, len(others), ", ".join(others[:EXAMPLES]))
    return asked, len(others)


def _column(path: Path, name: str) -> Any:
    """An obs column; of files that anndata writes today, without the others."""
    with open_h5ad(path) as file:
        obs = file["obs"]
        if isinstance(obs, h5py.Group) and "column-order" in obs.attrs and name in column_names(obs):
            return read_column(obs, name)
    with CountsFile(path, CountsFile.candidates(path)[0]) as whole:
        return obs_column(whole.obs, name, path)


def _samples_of(accession: str, records: Iterable[dict[str, str]]) -> list[str]:
    """What BioSample is asked for: the accession itself where it is of a sample, else those that SRA names."""
    if accession.startswith("SAM"):
        return [accession]
    return sorted({record["biosample"] for record in records if "biosample" in record})


def _merged(records: Sequence[dict[str, str]]) -> dict[str, str]:
    """One value per name; several that differ each once, sorted, with semicolons."""
    names = sorted({name for record in records for name in record})
    return {name: "; ".join(sorted({r[name] for r in records if name in r})) for name in names}


class _Store:
    """Records by accession, a line of JSON each, appended as they come; a line that a kill cut off is dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known: dict[str, list[dict[str, str]]] = {}
        if not path.exists():
            return
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with open(path, "r+b") as stream:
                stream.truncate(len(whole))
        for line in whole.splitlines():
            said = json.loads(line)
            self.known[said["accession"]] = said["records"]

    def fill(self, server: Entrez, database: Database, accessions: Sequence[str]) -> None:
        """Ask for what is not known yet, in batches."""
        missing = [a for a in accessions if a not in self.known]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "ab") as stream, progress(len(missing), "accessions", database) as counter:
            for i in range(0, len(missing), BATCH):
                batch = missing[i : i + BATCH]
                records = server.records(database, batch)
                for accession in batch:
                    mine = [r.attributes for r in records if accession in r.accessions]
                    mine.sort(key=lambda attributes: json.dumps(attributes, sort_keys=True))
                    if mine:
                        self.known[accession] = mine
                        line = json.dumps({"accession": accession, "records": mine}, sort_keys=True)
                        stream.write(f"{line}\n".encode())
                stream.flush()
                counter.update(len(batch))
