"""A reproducible companion to five papers on two-stream action recognition."""

__version__ = "0.1.0"
