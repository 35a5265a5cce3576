"""The figure of the doublet scores."""

from cellmill import script
from cellmill.report.doublets import draw_doublets

with script.job(snakemake) as job:
    draw_doublets(job.input.doublets, out=job.output.doublets)
