"""NCBI's E-utilities: the records of SRA and BioSample by accession, in batches, slowly, and not for ever.

Accessions are searched (esearch) and what is found is fetched by its number (efetch): efetch takes the digits of an
accession for such a number and gives another record. Every record says which accessions it has; others are left out.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import requests

from cellmill import __version__
from cellmill.errors import CellmillError
from cellmill.patience import PATIENCE, AgainError, Patience, is_passing, persist, reason_of, retry_after

log = logging.getLogger("cellmill")
Database = Literal["sra", "biosample"]

SERVER = "https://eutils.ncbi.nlm.nih.gov/entrez/eutils"
SERVER_VARIABLE, KEY_VARIABLE = "CELLMILL_EUTILS", "NCBI_API_KEY"
BATCH = 200
"""Accessions, or numbers, of one request."""
MOST_FOUND = 9_999
ACCESSION = re.compile(r"[SED]R[RXS]\d+|SAM(N|D|EA|E)\d+|GSM\d+")
"""A run, experiment or sample of SRA, a BioSample, or a sample of GEO."""


@dataclass(frozen=True)
class Record:
    """One record: the accessions it goes by, and its attributes by name in lower case with underscores."""

    accessions: frozenset[str]
    attributes: dict[str, str]


class Entrez:
    """A client that asks at most 3 times in a second, or 10 with the key of ``NCBI_API_KEY``.

    The key goes into the body of a request, and so into no address and no error. ``CELLMILL_EUTILS`` names another
    server with the same interface.
    """

    def __init__(self, *, patience: Patience = PATIENCE) -> None:
        self._patience, self._session = patience, requests.Session()
        self._server = os.environ.get(SERVER_VARIABLE, SERVER).rstrip("/")
        self._key = os.environ.get(KEY_VARIABLE)
        self._between_s, self._next_at = (0.1 if self._key else 0.34), 0.0

    def __enter__(self) -> Entrez:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def records(self, database: Database, accessions: Sequence[str]) -> list[Record]:
        """The records of at most ``BATCH`` accessions; of an accession there may be several, or none.

        Raises:
            CellmillError: the server refuses, or fails for longer than there is patience.
        """
        wanted = set(accessions)
        numbers = self._search(database, accessions)
        found: list[Record] = []
        for i in range(0, len(numbers), BATCH):
            found += self._fetch(database, numbers[i : i + BATCH])
        return [record for record in found if record.accessions & wanted]

    def _search(self, database: Database, accessions: Sequence[str]) -> list[str]:
        def ask() -> list[str]:
            form = {"term": " OR ".join(accessions), "retmax": str(MOST_FOUND), "retmode": "json"}
            body = self._post("esearch.fcgi", database, form)
            try:
                said = json.loads(body)["esearchresult"]
                numbers, count = [str(int(n)) for n in said["idlist"]], int(said["count"])
            except (ValueError, KeyError, TypeError):
                raise AgainError("the answer is no result of a search") from None
            if count and not numbers:
                raise AgainError(f"the answer names none of {count} records")
            if count > len(numbers):
                raise CellmillError(
                    self._where(database),
                    f"{count:,} records are found for {len(accessions)} accessions, more than {MOST_FOUND:,}.",
                    "Name runs or experiments in place of samples.",
                )
            return numbers

        return self._persist(ask, database) or self._persist(ask, database)  # an empty answer is asked for twice

    def _fetch(self, database: Database, numbers: Sequence[str]) -> list[Record]:
        best: list[Record] = []

        def ask() -> list[Record]:
            nonlocal best
            found = list(_parsed(database, self._post("efetch.fcgi", database, {"id": ",".join(numbers)})))
            best = max(best, found, key=len)
            if len(found) < len(numbers):
                raise AgainError(f"{len(found)} of {len(numbers)} records came")
            return found

        try:
            return self._persist(ask, database)
        except CellmillError:
            if not best:
                raise
            log.warning("%s: only %d of %d records can be had", self._where(database), len(best), len(numbers))
            return best

    def _persist(self, ask: Any, database: Database) -> Any:
        return persist(
            ask,
            where=self._where(database),
            patience=self._patience,
            fix="Run again later: what was fetched is kept. Without internet, join a table of your own (join:).",
        )

    def _where(self, database: Database) -> str:
        return f"E-utilities, {database}"

    def _post(self, name: str, database: Database, form: dict[str, str]) -> bytes:
        """One request; every answer that another try may better is ``AgainError``."""
        time.sleep(max(0.0, self._next_at - time.monotonic()))
        self._next_at = time.monotonic() + self._between_s
        asked = {"db": database, "tool": "cellmill", **form} | ({"api_key": self._key} if self._key else {})
        headers = {"User-Agent": f"cellmill/{__version__}"}
        try:
            answer = self._session.post(
                f"{self._server}/{name}", data=asked, headers=headers, timeout=self._patience.timeout_s
            )
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise AgainError(reason_of(error)) from None
        except (requests.RequestException, ValueError) as error:
            fix = f"Correct {SERVER_VARIABLE}."
            raise CellmillError(self._where(database), f"cannot be asked ({type(error).__name__}).", fix) from None
        if is_passing(answer.status_code):
            raise AgainError(f"HTTP {answer.status_code}", retry_after(answer.headers))
        if answer.status_code != 200:
            found = f"the server answers HTTP {answer.status_code} to {name}."
            raise CellmillError(self._where(database), found, f"Check {KEY_VARIABLE}, if you set one.")
        if not answer.content.strip():
            raise AgainError("the answer is empty")
        return answer.content


def _parsed(database: Database, body: bytes) -> Iterator[Record]:
    if b"<!ENTITY" in body:  # no answer of NCBI has one; it could grow without bound
        raise AgainError("the answer defines entities of its own")
    try:
        root = ET.fromstring(body)
    except ET.ParseError:
        raise AgainError("the answer is no whole XML") from None
    if database == "sra":
        return map(of_package, root.iter("EXPERIMENT_PACKAGE"))
    return map(of_biosample, root.iter("BioSample"))


def name_of(tag: str) -> str:
    """The name of an attribute: lower case, digits, underscores."""
    return re.sub(r"[^0-9a-z]+", "_", tag.lower()).strip("_")


def of_package(package: ET.Element) -> Record:
    """An experiment of SRA with its sample, study and runs (``EXPERIMENT_PACKAGE``)."""

    def text(path: str) -> str | None:
        return package.findtext(path)

    def attribute(path: str, name: str) -> str | None:
        found = package.find(path)
        return None if found is None else found.get(name)

    def external(path: str, namespace: str) -> str | None:
        return text(f"{path}/IDENTIFIERS/EXTERNAL_ID[@namespace='{namespace}']")

    runs = sorted(filter(None, (run.get("accession") for run in package.iterfind("RUN_SET/RUN"))))
    layout = package.find("EXPERIMENT/DESIGN/LIBRARY_DESCRIPTOR/LIBRARY_LAYOUT/*")
    library = "EXPERIMENT/DESIGN/LIBRARY_DESCRIPTOR/LIBRARY_"
    known = {
        "experiment_accession": attribute("EXPERIMENT", "accession"),
        "experiment_title": text("EXPERIMENT/TITLE"),
        "experiment_alias": attribute("EXPERIMENT", "alias"),
        "run_accession": "; ".join(runs),
        "published": attribute("RUN_SET/RUN", "published"),
        "study_accession": attribute("STUDY", "accession"),
        "study_alias": attribute("STUDY", "alias"),
        "study_title": text("STUDY/DESCRIPTOR/STUDY_TITLE"),
        "bioproject": external("STUDY", "BioProject"),
        "sample_accession": attribute("SAMPLE", "accession"),
        "sample_alias": attribute("SAMPLE", "alias"),
        "sample_title": text("SAMPLE/TITLE"),
        "biosample": external("SAMPLE", "BioSample"),
        "organism": text("SAMPLE/SAMPLE_NAME/SCIENTIFIC_NAME"),
        "taxon_id": text("SAMPLE/SAMPLE_NAME/TAXON_ID"),
        "library_name": text(f"{library}NAME"),
        "library_strategy": text(f"{library}STRATEGY"),
        "library_source": text(f"{library}SOURCE"),
        "library_selection": text(f"{library}SELECTION"),
        "library_layout": None if layout is None else layout.tag,
        "library_construction_protocol": text(f"{library}CONSTRUCTION_PROTOCOL"),
        "instrument_model": text("EXPERIMENT/PLATFORM/*/INSTRUMENT_MODEL"),
    }
    pairs = [
        (a.findtext("TAG") or "", a.findtext("VALUE") or "")
        for a in package.iterfind("SAMPLE/SAMPLE_ATTRIBUTES/SAMPLE_ATTRIBUTE")
    ]
    keys = ("experiment_accession", "experiment_alias", "sample_accession", "sample_alias", "biosample")
    geo = [external("EXPERIMENT", "GEO"), external("SAMPLE", "GEO")]
    return Record(_accessions([*runs, *geo, *(known[k] for k in keys)]), _attributes([*known.items(), *pairs]))


def of_biosample(sample: ET.Element) -> Record:
    """A record of BioSample, with its harmonised names where it has them."""
    organism = sample.find("Description/Organism")
    known = {
        "biosample": sample.get("accession"),
        "sample_title": sample.findtext("Description/Title"),
        "organism": None if organism is None else organism.get("taxonomy_name"),
        "taxon_id": None if organism is None else organism.get("taxonomy_id"),
        "owner": sample.findtext("Owner/Name"),
        "package": sample.findtext("Package"),
    }
    pairs = [
        (a.get("harmonized_name") or a.get("attribute_name") or "", a.text or "")
        for a in sample.iterfind("Attributes/Attribute")
    ]
    return Record(
        _accessions([sample.get("accession"), *(i.text for i in sample.iterfind("Ids/Id"))]),
        _attributes([*known.items(), *pairs]),
    )


def _accessions(texts: Sequence[str | None]) -> frozenset[str]:
    return frozenset(t.strip() for t in texts if t and ACCESSION.fullmatch(t.strip()))


def _attributes(pairs: Sequence[tuple[str, str | None]]) -> dict[str, str]:
    """By name; the first value of a name stays."""
    found: dict[str, str] = {}
    for tag, value in pairs:
        name, text = name_of(tag), " ".join((value or "").split())
        if name and text:
            found.setdefault(name, text)
    return found
