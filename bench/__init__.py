"""Timings of torchdet against its peers; see ``python -m bench --help``."""
