"""Metrics of every raw cell of a part."""

from cellmill import script
from cellmill.genes.spec import GeneRules
from cellmill.quality.metrics import measure_quality

with script.job(snakemake) as job:
    measure_quality(
        job.input.raw,
        part=job.wildcards.part,
        counts=job.params.counts,
        genes=GeneRules(**job.params.genes),
        gene_table=next(iter(job.input.gene_table), None),
        cell_ids=job.params.cell_ids,
        batch=job.params.batch,
        out=job.output.quality,
        out_genes=job.output.genes,
        gene_set_files=job.input.gene_sets,
        annotations=next(iter(job.input.annotations), None),
        threads=job.threads,
    )
