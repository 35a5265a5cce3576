"""The training cells of all parts in one shuffled archive."""

from cellmill import script
from cellmill.embedders import parse_embedder
from cellmill.embedders.gather_training import gather_training

with script.job(snakemake) as job:
    gather_training(
        job.input.processed,
        genes=job.input.genes,
        model=next(iter(job.input.model), None),
        spec=parse_embedder(job.params.embedder),
        batch=job.params.batch,
        out=job.output.training,
    )
