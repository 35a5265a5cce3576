"""Profiles of groups of cells, over all parts."""

from cellmill import script
from cellmill.pseudobulk.profiles import write_pseudobulk
from cellmill.pseudobulk.spec import Pseudobulk

with script.job(snakemake) as job:
    write_pseudobulk(
        job.input.sums,
        name=job.wildcards.pseudobulk,
        spec=Pseudobulk(**job.params.spec),
        out=job.output.profiles,
    )
