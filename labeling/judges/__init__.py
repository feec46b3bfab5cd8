"""Labelers that are language models: rubrics, prompts, verdicts, scores."""
