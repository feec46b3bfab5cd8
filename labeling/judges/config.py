"""A judge of the `labelers` section, typed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from labeling.engines.config import JudgeEngineConfig
from labeling.section import Name, Role, Section

_REMOTE_ENGINES = {"openai", "bedrock"}
_WRITING_ENGINES = {*_REMOTE_ENGINES, "vllm"}


class JudgeConfig(Section):
    """A language model that scores prompt and completion.

    By the likelihood of score tokens (method logprobs), or by a verdict that it writes (written):
    what remote engines do, of which some show no likelihoods, and vLLM where that is asked for.
    """

    kind: Literal["judge"]
    name: Name
    role: Role
    criterion: str
    rubric: str = Field(description="name of a shipped rubric, or path of a YAML file")
    engine: JudgeEngineConfig
    min_label_mass: float = Field(
        0.9, gt=0, le=1, description="probability that must lie on the rubric's labels"
    )
    method: Literal["auto", "logprobs", "written"] = Field(
        "auto", description="auto: logprobs where the model runs here, written where it is remote"
    )
    samples: int = Field(1, ge=1, le=100, description="written verdicts that a score averages")
    reasoning: Literal["before", "none"] | None = Field(
        None,
        description="reasons before the score, or none; None: before where the verdict is written",
    )
    mode: Literal["pointwise", "pairwise"] = Field(
        "pointwise", description="pairwise: two completions of a prompt, in both orders"
    )
    pairs: Literal["adjacent", "all"] = Field(
        "adjacent", description="pairwise: samples 0 and 1, 2 and 3, ...; or every two of a prompt"
    )
    temperature: float = Field(0.0, ge=0, le=2, description="of written verdicts")
    max_output_tokens: int = Field(512, ge=1, description="of a written verdict, reasons included")
    reuse_answers: bool = Field(
        True, description="a remote judge is not asked again what it answered another night"
    )
    required: bool = True

    @property
    def is_remote(self) -> bool:
        """Whether the judge is asked over the network, in messages."""
        return self.engine.kind in _REMOTE_ENGINES

    @property
    def chosen_method(self) -> str:
        """`method` with auto resolved: logprobs or written."""
        if self.method != "auto":
            return self.method
        return "written" if self.is_remote else "logprobs"

    @property
    def chosen_reasoning(self) -> str:
        """`reasoning` with None resolved: before or none."""
        if self.reasoning is not None:
            return self.reasoning
        return "before" if self.chosen_method == "written" else "none"

    @model_validator(mode="after")
    def _pairs_are_in_the_shadow(self) -> JudgeConfig:
        if self.mode == "pairwise" and self.role != "shadow":
            raise ValueError(
                f"labelers.{self.name}.role: {self.role}; a preference is about two completions, "
                "so it is no term of a reward and no rate: a pairwise judge has role shadow, and "
                "its labels are for preference pairs and for comparison"
            )
        return self

    @model_validator(mode="after")
    def _method_fits_the_engine(self) -> JudgeConfig:
        prefix = f"labelers.{self.name}"
        if self.method == "written" and self.engine.kind not in _WRITING_ENGINES:
            raise ValueError(
                f"{prefix}.method: engine {self.engine.kind} reads likelihoods; written verdicts "
                f"need one of {sorted(_WRITING_ENGINES)}"
            )
        if self.method == "logprobs" and self.engine.kind == "bedrock":
            raise ValueError(f"{prefix}.method: bedrock shows no likelihoods; use written")
        if self.samples > 1 and self.chosen_method == "logprobs":
            raise ValueError(f"{prefix}.samples: likelihoods are read once; samples is for written")
        if self.is_remote and self.chosen_method == "logprobs" and self.reasoning == "before":
            raise ValueError(
                f"{prefix}.reasoning: an endpoint shows the likelihoods of its first token only; "
                "use method: written for reasons, or reasoning: none"
            )
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"{prefix}.samples: {self.samples} samples at temperature 0 are one sample, paid "
                "several times; give a temperature"
            )
        return self
