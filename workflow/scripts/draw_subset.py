"""Which cells of a dataset are drawn, over all its parts."""

from cellmill import script
from cellmill.sources.draw import draw_subset
from cellmill.sources.subset import SubsetRules

with script.job(snakemake) as job:
    draw_subset(
        job.input.found,
        rules=SubsetRules(**job.params.rules),
        counts=job.params.counts,
        out=job.output.subset,
        annotations=job.input.annotations,
    )
