"""Commits, the data files they list, reading and evidence of them."""
