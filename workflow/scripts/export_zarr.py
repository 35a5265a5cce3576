"""Aligned rows to sharded zarr."""

from cellmill import script

script.run_export(snakemake)
