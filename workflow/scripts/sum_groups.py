"""The sums of the groups of a part."""

from cellmill import script
from cellmill.pseudobulk.profiles import sum_groups
from cellmill.pseudobulk.spec import Pseudobulk

with script.job(snakemake) as job:
    sum_groups(
        job.input.processed,
        spec=Pseudobulk(**job.params.spec),
        columns=job.params.columns,
        out=job.output.sums,
        threads=job.threads,
    )
