"""Cells of equal content over all parts."""

from cellmill import script
from cellmill.quality.duplicates import find_duplicates
from cellmill.quality.spec import Quality

with script.job(snakemake) as job:
    find_duplicates(
        job.input.quality,
        labels=job.input.labels,
        thresholds=job.input.thresholds,
        doublets=job.input.doublets,
        spec=Quality(**job.params.quality),
        out=job.output.duplicates,
    )
