"""Write the merged, validated configuration beside the results."""

from cellmill import script
from cellmill.files import write_json

with script.job(snakemake) as job:
    write_json(job.output.config, job.params.resolved)
