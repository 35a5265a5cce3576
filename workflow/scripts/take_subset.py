"""The drawn cells of a part."""

from cellmill import script
from cellmill.sources.draw import take_subset

with script.job(snakemake) as job:
    take_subset(
        job.input.found,
        found_provenance=job.input.provenance,
        subset=job.input.subset,
        counts=job.params.counts,
        part=job.wildcards.part,
        out=job.output.raw,
        provenance=job.output.provenance,
        annotations=next(iter(job.input.annotations), None),
        threads=job.threads,
    )
