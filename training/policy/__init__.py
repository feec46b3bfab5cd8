"""A policy with a value head: loading, log-probs, adapters."""
