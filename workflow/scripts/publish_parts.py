"""Processed parts to Zenodo or a WebDAV server."""

from pathlib import Path

from cellmill import script
from cellmill.publish.commands import publish_parts
from cellmill.publish.spec import parse_target

with script.job(snakemake) as job:
    publish_parts(
        [Path(p) for p in job.input.processed],
        parse_target(job.wildcards.target, job.params.target),
        Path(job.output.table),
        dataset=job.wildcards.dataset,
        title=job.params.about["title"],
        license=job.params.about["license"],
    )
