"""Aligned rows to packed archives."""

from cellmill import script

script.run_export(snakemake)
