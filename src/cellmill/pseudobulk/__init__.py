"""Profiles of groups of cells: sums or means of their counts."""
