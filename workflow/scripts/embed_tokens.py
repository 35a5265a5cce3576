"""A vector for every kept cell of a part, by a model over its tokens."""

from cellmill import script
from cellmill.embedders import parse_embedder
from cellmill.embedders.embed_tokens import embed_tokens

with script.job(snakemake) as job:
    embed_tokens(
        job.input.tokens,
        vocabulary=job.input.vocabulary,
        gene_tokens=job.input.gene_tokens,
        spec=parse_embedder(job.params.embedder),
        out=job.output.vectors,
        manifest=job.output.manifest,
        threads=job.threads,
        rates=job.log.rates,
    )
