"""Which files make each part of a dataset."""

from cellmill import script
from cellmill.sources import parse_source
from cellmill.sources.plan import plan_dataset

with script.job(snakemake) as job:
    plan_dataset(parse_source(job.params.source), job.output.plan, mirror=script.mirror(job))
