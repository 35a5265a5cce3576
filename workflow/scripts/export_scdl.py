"""Aligned rows to SCDL memory maps."""

from cellmill import script

script.run_export(snakemake)
