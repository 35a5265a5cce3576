"""Where every cell of the dataset went."""

from cellmill import script
from cellmill.config import CellRules
from cellmill.quality.ledger import write_ledger

with script.job(snakemake) as job:
    write_ledger(
        job.input.cells,
        labels=job.input.labels,
        duplicates=job.input.duplicates,
        rules=CellRules(**job.params.rules),
        out=job.output.ledger,
    )
