"""A tokenizer's vocabulary over the dataset's genes."""

from cellmill import script
from cellmill.tokenizers import parse_tokenizer
from cellmill.tokenizers.tokenize import build_vocabulary

with script.job(snakemake) as job:
    spec = parse_tokenizer(job.params.tokenizer)
    build_vocabulary(
        job.input.genes,
        files=dict(zip(spec.needs(), job.input.files, strict=True)),
        spec=spec,
        out=job.output.vocabulary,
        out_genes=job.output.gene_tokens,
    )
