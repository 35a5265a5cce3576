"""Aligned rows to a Hugging Face dataset."""

from cellmill import script

script.run_export(snakemake)
