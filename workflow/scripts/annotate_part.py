"""The obs columns of a part that are changed or joined."""

from cellmill import script
from cellmill.sources.annotate import annotate_part
from cellmill.sources.obs_rules import ObsRules

with script.job(snakemake) as job:
    annotate_part(
        job.input.found,
        rules=ObsRules(**job.params.rules),
        tables=job.input.tables,
        out=job.output.annotations,
    )
