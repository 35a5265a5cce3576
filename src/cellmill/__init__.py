"""cellmill: single-cell atlases in, training-ready datasets out."""

__version__ = "0.1.0"
