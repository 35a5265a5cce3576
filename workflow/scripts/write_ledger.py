"""Where every cell of the dataset went."""

from cellmill import script
from cellmill.quality.ledger import write_ledger
from cellmill.quality.spec import CellRules

with script.job(snakemake) as job:
    write_ledger(
        job.input.cells,
        labels=job.input.labels,
        doublets=job.input.doublets,
        duplicates=job.input.duplicates,
        rules=CellRules(**job.params.rules),
        out=job.output.ledger,
        annotations=job.input.annotations,
    )
