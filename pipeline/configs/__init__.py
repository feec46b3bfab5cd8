"""Configurations: the shipped ones (YAML beside this file), and how a file becomes a RunConfig."""
