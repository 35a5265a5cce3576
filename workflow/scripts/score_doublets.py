"""The doublet scores of some batches."""

from cellmill import script
from cellmill.quality.doublets import part_files, score_doublets
from cellmill.quality.spec import Quality

with script.job(snakemake) as job:
    score_doublets(
        part_files(job.input.raw, quality=job.input.quality, labels=job.input.labels, genes=job.input.genes),
        thresholds=job.input.thresholds,
        spec=Quality(**job.params.quality),
        share=int(job.wildcards.share),
        shares=job.params.shares,
        out=job.output.doublets,
    )
