"""One gene space over all parts."""

from cellmill import script
from cellmill.genes.space import unify_genes

with script.job(snakemake) as job:
    unify_genes(job.input.genes, out=job.output.space)
