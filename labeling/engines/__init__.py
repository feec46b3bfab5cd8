"""What runs a language model for judges and for the policy: one module per engine and task."""

from __future__ import annotations
