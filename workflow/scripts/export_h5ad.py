"""Aligned rows to AnnData files."""

from cellmill import script

script.run_export(snakemake)
