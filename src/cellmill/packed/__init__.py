"""Packed archives: counts at about a byte per value, any row of which is decoded by itself."""
