"""A stand-in for NCBI's E-utilities on this machine: esearch and efetch of SRA and BioSample, with faults."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from . import local_server

Fault = Callable[["Handler", bytes], None]


@dataclass(frozen=True)
class Sample:
    """A sample with one experiment for each run."""

    number: int
    attributes: dict[str, str] = field(default_factory=dict)
    runs: int = 1
    title: str = "10x 3' gene expression"

    @property
    def biosample(self) -> str:
        return f"SAMN{self.number:08d}"

    def accession(self, kind: str, run: int = 0) -> str:
        return f"{kind}{self.number * 10 + run}"

    def package(self, run: int) -> str:
        """As efetch of SRA has it, with what is of no concern here left out."""
        pairs = "".join(
            f"<SAMPLE_ATTRIBUTE><TAG>{escape(t)}</TAG><VALUE>{escape(v)}</VALUE></SAMPLE_ATTRIBUTE>"
            for t, v in self.attributes.items()
        )
        srx, srs, gsm = self.accession("SRX", run), self.accession("SRS"), self.accession("GSM", run)
        return f"""<EXPERIMENT_PACKAGE><EXPERIMENT accession="{srx}" alias="{gsm}"><IDENTIFIERS>
<PRIMARY_ID>{srx}</PRIMARY_ID><EXTERNAL_ID namespace="GEO">{gsm}</EXTERNAL_ID></IDENTIFIERS>
<TITLE>{escape(self.title)}</TITLE><STUDY_REF accession="SRP1"/><DESIGN><DESIGN_DESCRIPTION/>
<SAMPLE_DESCRIPTOR accession="{srs}"/><LIBRARY_DESCRIPTOR><LIBRARY_NAME>{gsm}</LIBRARY_NAME>
<LIBRARY_STRATEGY>RNA-Seq</LIBRARY_STRATEGY><LIBRARY_SOURCE>TRANSCRIPTOMIC SINGLE CELL</LIBRARY_SOURCE>
<LIBRARY_SELECTION>cDNA</LIBRARY_SELECTION><LIBRARY_LAYOUT><PAIRED/></LIBRARY_LAYOUT></LIBRARY_DESCRIPTOR></DESIGN>
<PLATFORM><ILLUMINA><INSTRUMENT_MODEL>Illumina NovaSeq 6000</INSTRUMENT_MODEL></ILLUMINA></PLATFORM></EXPERIMENT>
<SUBMISSION accession="SRA1"/><Organization type="center"><Name>GEO</Name></Organization>
<STUDY accession="SRP1" alias="GSE1"><IDENTIFIERS><PRIMARY_ID>SRP1</PRIMARY_ID>
<EXTERNAL_ID namespace="BioProject" label="primary">PRJNA1</EXTERNAL_ID></IDENTIFIERS>
<DESCRIPTOR><STUDY_TITLE>A lung atlas &amp; more</STUDY_TITLE></DESCRIPTOR></STUDY>
<SAMPLE accession="{srs}" alias="{self.accession("GSM")}"><IDENTIFIERS><PRIMARY_ID>{srs}</PRIMARY_ID>
<EXTERNAL_ID namespace="BioSample">{self.biosample}</EXTERNAL_ID></IDENTIFIERS><TITLE>sample {self.number}</TITLE>
<SAMPLE_NAME><TAXON_ID>9606</TAXON_ID><SCIENTIFIC_NAME>Homo sapiens</SCIENTIFIC_NAME></SAMPLE_NAME>
<SAMPLE_ATTRIBUTES>{pairs}</SAMPLE_ATTRIBUTES></SAMPLE>
<RUN_SET runs="1"><RUN accession="{self.accession("SRR", run)}" published="2024-05-0{run + 1} 00:00:00"/></RUN_SET>
</EXPERIMENT_PACKAGE>"""

    def record(self) -> str:
        """As efetch of BioSample has it."""
        pairs = "".join(
            f'<Attribute attribute_name="{escape(t)}" harmonized_name="{escape(t).replace(" ", "_")}" '
            f'display_name="{escape(t)}">{escape(v)} (BioSample)</Attribute>'
            for t, v in self.attributes.items()
        )
        return f"""<BioSample access="public" id="{self.number}" accession="{self.biosample}">
<Ids><Id db="BioSample" is_primary="1">{self.biosample}</Id><Id db_label="Sample name">s {self.number}</Id>
<Id db="SRA">{self.accession("SRS")}</Id></Ids><Description><Title>sample {self.number}</Title>
<Organism taxonomy_id="9606" taxonomy_name="Homo sapiens"/></Description><Owner><Name>GEO</Name></Owner>
<Models><Model>Generic</Model></Models><Package display_name="Generic">Generic.1.0</Package>
<Attributes>{pairs}</Attributes></BioSample>"""


class Handler(local_server.Handler):
    server: Eutils

    def do_POST(self) -> None:
        form = {k: v[0] for k, v in parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()).items()}
        name = self.path.rsplit("/", 1)[-1].removesuffix(".fcgi")
        with self.server.lock:
            self.server.seen.append((name, self.path, form, time.monotonic()))
            fault = self.server.faults.pop(0) if self.server.faults else None
        records = self.server.records(form["db"])
        if name == "esearch":
            words = set(form["term"].split(" OR "))
            found = [n for n, xml in records.items() if words & set(re.findall(r"\w+", xml))]
            said: Any = {"header": {"type": "esearch"}, "esearchresult": {"count": str(len(found)), "idlist": found}}
            body = json.dumps(said).encode()
        else:
            inside = "".join(records[n] for n in form["id"].split(",") if n in records)
            root = {"sra": "EXPERIMENT_PACKAGE_SET", "biosample": "BioSampleSet"}[form["db"]]
            body = f'<?xml version="1.0" encoding="UTF-8" ?>\n<{root}>{inside}</{root}>\n'.encode()
        (fault or fine)(self, body)


def refuse(code: int, **headers: str) -> Fault:
    """An error, with headers such as ``Retry_After``."""
    return lambda handler, _: handler.answer(code, b'{"error": "API rate limit exceeded"}', **headers)


def say(body: bytes) -> Fault:
    """Something else than was asked for."""
    return lambda handler, _: handler.answer(200, body)


def cut(handler: Handler, body: bytes) -> None:
    """The connection ends in the middle of the answer."""
    handler.answer(200, body[: len(body) // 2], Content_Length=str(len(body)))
    handler.close_connection = True


def fine(handler: Handler, body: bytes) -> None:
    """No fault."""
    handler.answer(200, body)


class Eutils(local_server.LocalServer):
    """Samples by what they are, the faults of the next answers, and every request that came."""

    def __init__(self, samples: list[Sample]) -> None:
        super().__init__(Handler)
        self.samples, self.faults, self.lock = samples, list[Fault](), threading.Lock()
        self.seen: list[tuple[str, str, dict[str, str], float]] = []

    @property
    def address(self) -> str:
        return f"{super().address}/entrez/eutils"

    def records(self, database: str) -> dict[str, str]:
        """The XML of each record by its number."""
        if database == "biosample":
            return {str(s.number): s.record() for s in self.samples}
        return {str(s.number * 100 + run): s.package(run) for s in self.samples for run in range(s.runs)}

    def asked(self, name: str) -> list[dict[str, str]]:
        return [form for what, _, form, _ in self.seen if what == name]
