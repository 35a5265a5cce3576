"""How well the vectors of an embedder tell labels apart and mix batches."""

from cellmill import script
from cellmill.judge.judge import judge_embedder
from cellmill.judge.spec import JudgeRules

with script.job(snakemake) as job:
    judge_embedder(
        job.input.processed,
        embedding=job.input.embedding,
        embedder=job.wildcards.embedder,
        rules=JudgeRules(**job.params.rules),
        out=job.output.judged,
    )
