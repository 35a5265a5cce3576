"""Tokens of every kept cell of a part."""

from cellmill import script
from cellmill.tokenizers import parse_tokenizer
from cellmill.tokenizers.tokenize import tokenize_part

with script.job(snakemake) as job:
    tokenize_part(
        job.input.processed,
        vocabulary=job.input.vocabulary,
        gene_tokens=job.input.gene_tokens,
        spec=parse_tokenizer(job.params.tokenizer),
        out=job.output.tokens,
        threads=job.threads,
    )
