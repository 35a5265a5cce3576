"""An export to the Hugging Face Hub."""

from pathlib import Path

from cellmill import script
from cellmill.publish.commands import publish_export
from cellmill.publish.spec import Hub

with script.job(snakemake) as job:
    publish_export(Path(job.input.manifest).parent, Hub(**job.params.hub), Path(job.output.said))
