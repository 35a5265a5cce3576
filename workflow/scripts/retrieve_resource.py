"""One outside file of the ledger."""

from pathlib import Path

from cellmill import script
from cellmill.sources.ledger import LEDGER, retrieve_resource

with script.job(snakemake) as job:
    retrieve_resource(job.wildcards.resource, Path(job.output.resource), ledger=LEDGER, mirror=script.mirror(job))
