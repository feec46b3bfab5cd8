"""Keeping a warehouse: verify, vacuum, compact, forget."""
