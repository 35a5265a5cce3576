"""Aligned rows to HDF5 batches."""

from cellmill import script

script.run_export(snakemake)
