"""The kept cells of a part as raw counts."""

from cellmill import script
from cellmill.quality.process import process_part
from cellmill.quality.spec import CellRules

with script.job(snakemake) as job:
    process_part(
        job.input.raw,
        quality=job.input.quality,
        labels=job.input.labels,
        part_genes=job.input.genes,
        thresholds=job.input.thresholds,
        doublets=job.input.doublets,
        duplicates=job.input.duplicates,
        splits=job.input.splits,
        space=job.input.space,
        mapping=job.input.mapping,
        rules=CellRules(**job.params.rules),
        part=job.wildcards.part,
        out=job.output.processed,
        out_cells=job.output.cells,
        annotations=next(iter(job.input.annotations), None),
        threads=job.threads,
    )
