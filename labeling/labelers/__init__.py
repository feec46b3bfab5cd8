"""Labelers by configuration; classifiers and reward models."""
