"""How a text gets an AI label: classifiers, judges, rubrics, rewards. Knows only `warehouse`."""

from __future__ import annotations
