"""Gene statistics and variable genes over all parts."""

from cellmill import script
from cellmill.genes.spec import VariableGenes
from cellmill.genes.variable import rank_genes

with script.job(snakemake) as job:
    rank_genes(
        job.input.sums,
        space=job.input.space,
        model=next(iter(job.input.model), None),
        clipped=list(job.input.clipped),
        spec=VariableGenes(**job.params.variable_genes),
        out=job.output.genes,
    )
