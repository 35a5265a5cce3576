"""Sums of the clipped counts of the training cells of a part, for the flavor seurat_v3."""

from cellmill import script
from cellmill.genes.clipped import measure_clipped

with script.job(snakemake) as job:
    measure_clipped(
        job.input.processed,
        model=job.input.model,
        batch=job.params.batch,
        out=job.output.clipped,
    )
