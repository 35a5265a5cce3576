"""Principal components over all parts."""

from cellmill import script
from cellmill.embedders import Pca
from cellmill.embedders.pca import fit_pca

with script.job(snakemake) as job:
    fit_pca(job.input.products, genes=job.input.genes, spec=Pca(**job.params.embedder), out=job.output.model)
