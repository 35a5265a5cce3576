"""The figures of the report."""

from cellmill import script
from cellmill.report.figures import DrawnFrom, Figures, draw_report

with script.job(snakemake) as job:
    draw_report(
        DrawnFrom(**dict(job.input.items())),
        label=job.params.label,
        batch=job.params.batch,
        splits=job.params.splits,
        out=Figures(**dict(job.output.items())),
    )
