"""Gene sums over the training cells of a part."""

from cellmill import script
from cellmill.genes.statistics import measure_genes

with script.job(snakemake) as job:
    measure_genes(
        job.input.processed, scale=job.params.scale, batch=job.params.batch, out=job.output.sums, threads=job.threads
    )
