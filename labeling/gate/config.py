"""The `gate` section of a configuration: what the labels of a night must reach before training.

The defaults are those of a night with some hundred prompts. Not here: the checks (checks.py).
"""

from __future__ import annotations

from pydantic import Field

from labeling.section import Section


class GateConfig(Section):
    """Thresholds for every required labeler; `sentinels`: the texts of known score."""

    min_coverage: float = Field(0.95, ge=0, le=1, description="share of rollouts with a label")
    min_ok_rate: float = Field(0.95, ge=0, le=1, description="share of labels with a score")
    max_failure_bound: float = Field(
        0.1, ge=0, le=1, description="upper end of the failure rate's Wilson interval"
    )
    max_low_mass: float = Field(
        0.02, ge=0, le=1, description="share of labels whose judge meant to say something else"
    )
    min_order_consistency: float = Field(
        0.8, ge=0, le=1, description="pairwise judges: the same one preferred in both orders"
    )
    sentinels: str = Field(
        "auto", description="auto, none, a shipped set (default, starter), or path of a YAML file"
    )
    min_sentinel_kappa: float = Field(0.2, ge=-1, le=1, description="with the sentinels' gold")
    max_sentinel_kappa_drop: float = Field(
        0.1, ge=0, description="against the last accepted night of the labeler"
    )
    max_sentinel_shift: float = Field(
        3.0, ge=0, description="standard errors, under one revision of the labeler"
    )
    max_canary_score: float = Field(0.5, ge=0, le=1, description="of answers that earn nothing")
    max_padding_gain: float = Field(
        0.1, ge=0, le=1, description="what an answer gains by being said again"
    )
