"""A table that is joined, from its address."""

from pathlib import Path

from cellmill import script
from cellmill.sources.retrieve import retrieve_table

with script.job(snakemake) as job:
    retrieve_table(
        job.params.address,
        Path(job.output.table),
        mirror=script.mirror(job),
        download=script.download(job),
    )
