"""A vector for every kept cell of a part."""

from cellmill import script
from cellmill.embedders import parse_embedder
from cellmill.embedders.embed import embed_part

with script.job(snakemake) as job:
    embed_part(
        job.input.processed,
        genes=job.input.genes,
        files=list(job.input.files),
        spec=parse_embedder(job.params.embedder),
        out=job.output.vectors,
        manifest=job.output.manifest,
    )
