"""What the rules need to know of the obs table of a part."""

from cellmill import script
from cellmill.quality.labels import read_labels
from cellmill.quality.spec import LabelRules

with script.job(snakemake) as job:
    read_labels(
        job.input.raw,
        quality=job.input.quality,
        rules=LabelRules(**job.params.rules),
        out=job.output.labels,
        annotations=next(iter(job.input.annotations), None),
    )
