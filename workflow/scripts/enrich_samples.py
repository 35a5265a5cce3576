"""What SRA and BioSample say of the samples of a dataset."""

from cellmill import script
from cellmill.sources.enrich import enrich_samples
from cellmill.sources.obs_rules import Enrich

with script.job(snakemake) as job:
    enrich_samples(
        job.input.found,
        spec=Enrich(**job.params.spec),
        out=job.output.table,
        patience=script.download(job).patience,
    )
