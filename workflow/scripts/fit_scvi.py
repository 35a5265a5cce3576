"""A model of scvi-tools, trained on the training cells."""

from cellmill import script
from cellmill.embedders import parse_embedder
from cellmill.embedders.fit_scvi import fit_scvi

with script.job(snakemake) as job:
    fit_scvi(
        job.input.training,
        model=next(iter(job.input.model), None),
        spec=parse_embedder(job.params.embedder),
        work=job.params.work,
        out=job.output.model,
        manifest=job.output.manifest,
        rates=job.log.rates,
    )
