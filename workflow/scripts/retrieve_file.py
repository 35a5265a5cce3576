"""One file at an address of which several parts take rows, checksum verified."""

from pathlib import Path

from cellmill import script
from cellmill.sources.retrieve import retrieve_file

with script.job(snakemake) as job:
    retrieve_file(
        script.plan(job),
        job.wildcards.member,
        Path(job.output.file),
        project=job.params.project,
        mirror=script.mirror(job),
        download=script.download(job),
    )
