"""The variance expected of each gene, and what its counts are clipped at, for the flavor seurat_v3."""

from cellmill import script
from cellmill.genes.clipped import fit_clip

with script.job(snakemake) as job:
    fit_clip(job.input.sums, out=job.output.model)
