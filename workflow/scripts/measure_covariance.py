"""Products over the training cells of a part, for the PCA."""

from cellmill import script
from cellmill.embedders.covariance import measure_covariance

with script.job(snakemake) as job:
    measure_covariance(
        job.input.processed,
        genes=job.input.genes,
        n_genes=job.params.n_genes,
        out=job.output.products,
        threads=job.threads,
    )
