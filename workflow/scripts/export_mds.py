"""Aligned rows to MDS shards."""

from cellmill import script

script.run_export(snakemake)
