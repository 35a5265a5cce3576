"""A vocabulary over the genes of several datasets."""

from cellmill import script
from cellmill.vocabularies import parse_vocabulary
from cellmill.vocabularies.make import make_vocabulary

with script.job(snakemake) as job:
    make_vocabulary(
        job.input.genes,
        out=job.output.vocabulary,
        rules=parse_vocabulary(job.params.vocabulary),
        extends=next(iter(job.input.extends), None),
        made_by=job.rule,
        force=True,
    )
