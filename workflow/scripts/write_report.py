"""The page of the report."""

from cellmill import script
from cellmill.report.page import WrittenFrom, write_report

with script.job(snakemake) as job:
    write_report(
        WrittenFrom(**dict(job.input.items())),
        dataset=job.wildcards.dataset,
        title=job.params.title,
        splits=job.params.splits,
        out=job.output.page,
    )
