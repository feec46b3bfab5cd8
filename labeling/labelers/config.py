"""The `labelers` section of a configuration, typed; an unknown key is an error.

Light: nothing here loads a model. What is checked here needs no model; whether a model's labels
are those of the configuration is checked when the labeler starts (classifier.py,
judges/likelihood.py).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from labeling.judges.config import JudgeConfig
from labeling.section import Name, Role, Section, Share

# The starters come with this project, so their label names are known here.
STARTER_LABELS: dict[str, dict[str, float]] = {
    "starter-toxicity": {"polite": 0.0, "rude": 1.0},
    "starter-metric": {"acceptable": 0.0, "toxic": 1.0},
}


class SelfTestSentence(Section):
    """A text whose score is known well enough to refuse a labeler that gets it wrong."""

    text: str
    at_least: Share | None = None
    at_most: Share | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> SelfTestSentence:
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"self_test {self.text!r}: give at_least or at_most")
        return self


class ClassifierConfig(Section):
    """A sequence classifier: a Hub id, a folder, or a starter. It reads the completion only."""

    kind: Literal["classifier"]
    name: Name
    role: Role
    criterion: str
    model: str
    revision: str | None = Field(None, description="Hub commit; folders and starters need none")
    labels: dict[str, Share] | None = Field(
        None,
        min_length=1,
        description="score of each of the model's labels; starters bring their own",
    )
    activation: Literal["softmax", "sigmoid"] = "softmax"
    max_tokens: int = Field(512, ge=8, description="longest window, if the model allows it")
    stride: int = Field(64, ge=0, description="tokens that two windows of a text share")
    max_windows: int = Field(256, ge=1, description="longer texts get status too_long")
    token_budget: int = Field(4096, ge=1, description="tokens of one batch, padding included")
    backend: Literal["transformers", "onnx"] = Field(
        "transformers", description="onnx: ONNX Runtime on the CPU; needs roundhouse[onnx]"
    )
    required: bool = True
    self_test: tuple[SelfTestSentence, ...] | None = Field(
        None, description="None: the shipped sentences of the criterion; []: no self-test"
    )

    @model_validator(mode="after")
    def _labels_are_known(self) -> ClassifierConfig:
        if self.labels is None and self.model not in STARTER_LABELS:
            raise ValueError(
                f"labelers.{self.name}.labels: give each label of {self.model} its score, for "
                "instance {nothate: 0, hate: 1}; the order of a model's labels is never guessed"
            )
        values = set(self.label_scores.values())
        if self.activation == "softmax":
            is_constant = len(values) < 2
        else:  # each label on its own; a single one may also stand for the absence
            is_constant = max(values) == 0 if len(self.label_scores) > 1 else values == {0.5}
        if is_constant:
            raise ValueError(
                f"labelers.{self.name}.labels: {self.label_scores} gives every text the same score"
            )
        return self

    @property
    def label_scores(self) -> dict[str, float]:
        """Label name -> score in [0, 1], the shipped mapping for a starter."""
        return self.labels if self.labels is not None else STARTER_LABELS[self.model]


class RewardModelConfig(Section):
    """A trained reward model: a sequence classifier with one output that reads the dialogue."""

    kind: Literal["reward_model"]
    name: Name
    role: Role
    criterion: str
    model: str
    revision: str | None = Field(None, description="Hub commit; folders need none")
    template: str | None = Field(
        None, min_length=1, description="Jinja chat template; None: the one of its tokenizer"
    )
    center: float = Field(
        0.0, allow_inf_nan=False, description="logit that becomes score 0.5: a typical completion's"
    )
    scale: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="score = sigmoid((logit - center) / scale)"
    )
    max_tokens: int = Field(2048, ge=8, description="longer dialogues get status too_long")
    token_budget: int = Field(4096, ge=1, description="tokens of one batch, padding included")
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    required: bool = True


LabelerConfig = Annotated[
    ClassifierConfig | RewardModelConfig | JudgeConfig, Field(discriminator="kind")
]
