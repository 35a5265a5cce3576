"""Aligned rows to Arrow datasets that Geneformer reads."""

from cellmill import script

script.run_export(snakemake)
