"""The embedders of a dataset side by side."""

from cellmill import script
from cellmill.report.embedders import compare_embedders

with script.job(snakemake) as job:
    compare_embedders(job.input.judged, table=job.output.table, figure=job.output.figure)
