"""A vector for every kept cell of a part, by a model of scvi-tools."""

from cellmill import script
from cellmill.embedders import parse_embedder
from cellmill.embedders.embed_scvi import embed_scvi

with script.job(snakemake) as job:
    embed_scvi(
        job.input.processed,
        genes=job.input.genes,
        model=job.input.model[0],
        spec=parse_embedder(job.params.embedder),
        batch=job.params.batch,
        out=job.output.vectors,
        manifest=job.output.manifest,
        threads=job.threads,
        rates=job.log.rates,
    )
