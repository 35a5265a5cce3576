"""One raw part, as found, checksum verified."""

from pathlib import Path

from cellmill import script
from cellmill.sources import parse_source
from cellmill.sources.ledger import LEDGER
from cellmill.sources.retrieve import retrieve_part

with script.job(snakemake) as job:
    retrieve_part(
        parse_source(job.params.source),
        job.wildcards.part,
        Path(job.output.raw),
        Path(job.output.provenance),
        ledger=LEDGER,
        mirror=script.mirror(job),
        plan=script.plan(job),
        shared=[Path(path) for path in job.input.whole],
        counts=job.params.counts,
        download=script.download(job),
    )
