"""Critique and revision of completions by a constitution."""
