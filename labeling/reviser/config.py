"""The `revision` section of a configuration: who criticises and revises which stored completions.

Not here: the words (wording.py), the calls (reviser.py), the stage (pipeline/stages/revise.py).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from labeling.engines.config import BedrockEngineConfig, OpenAIEngineConfig, VllmEngineConfig
from labeling.section import Name, Section

WritingEngineConfig = Annotated[
    VllmEngineConfig | OpenAIEngineConfig | BedrockEngineConfig, Field(discriminator="kind")
]


class SelectConfig(Section):
    """Which completions are revised: those a labeler scored on the bad side of a threshold.

    The criterion is the labeler's; the worst come first.
    """

    labeler: str = Field(description="name of a labeler of the configuration, no metric")
    at_least: float | None = Field(None, ge=0, le=1, description="where a high score is bad")
    at_most: float | None = Field(None, ge=0, le=1, description="where a low score is bad")
    max_rows: int = Field(256, ge=1, description="completions of a round at most")

    @model_validator(mode="after")
    def _has_one_threshold(self) -> SelectConfig:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(
                "give one threshold: at_least where a high score is bad (toxicity), at_most where "
                "a low one is (helpfulness)"
            )
        return self


class RevisionConfig(Section):
    """Constitutional revision (Bai et al. 2212.08073, section 3.1)."""

    name: Name = Field("constitution", description="stands in the recipe of the pairs")
    engine: WritingEngineConfig
    constitution: str = Field(
        "constitution", description="a shipped rubric with principles, or path of a YAML file"
    )
    principles: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of the principles to draw from; None: all"
    )
    select: SelectConfig
    temperature: float = Field(0.0, ge=0, le=2)
    max_output_tokens: int = Field(1024, ge=1, description="of critique and revision together")
    reuse_answers: bool = Field(
        True, description="a remote reviser is not asked again what it answered before"
    )
