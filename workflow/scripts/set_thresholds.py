"""Thresholds over all parts."""

from cellmill import script
from cellmill.quality.spec import Quality
from cellmill.quality.thresholds import set_thresholds

with script.job(snakemake) as job:
    set_thresholds(
        job.input.quality,
        labels=job.input.labels,
        spec=Quality(**job.params.quality),
        out=job.output.thresholds,
    )
