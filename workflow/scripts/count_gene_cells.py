"""In how many kept cells of a part each gene has a count."""

from cellmill import script
from cellmill.genes.cells import count_gene_cells
from cellmill.quality.spec import Quality

with script.job(snakemake) as job:
    count_gene_cells(
        job.input.raw,
        quality=job.input.quality,
        labels=job.input.labels,
        part_genes=job.input.genes,
        thresholds=job.input.thresholds,
        doublets=job.input.doublets,
        duplicates=job.input.duplicates,
        splits=job.input.splits,
        spec=Quality(**job.params.quality),
        out=job.output.cells,
        threads=job.threads,
    )
