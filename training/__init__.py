"""Stored rows in, a better model out: data sets, PPO, preference trainers and the starter models.

Knows `warehouse` only. Not a place for labelers (`labeling`) or for what runs when (`pipeline`).
"""

from __future__ import annotations
