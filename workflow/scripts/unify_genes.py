"""One gene space over all parts."""

from cellmill import script
from cellmill.genes.space import unify_genes
from cellmill.genes.spec import Genes

with script.job(snakemake) as job:
    unify_genes(
        job.input.genes,
        spec=Genes(**job.params.genes),
        out=job.output.space,
        out_mapping=job.output.mapping,
        gene_list=next(iter(job.input.gene_list), None),
        gene_table=next(iter(job.input.gene_table), None),
        gene_cells=job.input.gene_cells,
    )
