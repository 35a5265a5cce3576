"""Who trains and who tests, over all parts."""

from cellmill import script
from cellmill.quality.spec import CellRules
from cellmill.quality.splits import assign_splits

with script.job(snakemake) as job:
    assign_splits(
        job.input.quality,
        labels=job.input.labels,
        thresholds=job.input.thresholds,
        doublets=job.input.doublets,
        duplicates=job.input.duplicates,
        rules=CellRules(**job.params.rules),
        out=job.output.splits,
    )
