"""The `labelers` section of a configuration, typed; an unknown key is an error.

Light: nothing here loads a model. What is checked here needs no model; whether a model's labels
are those of the configuration is checked when the labeler starts (classifier.py, judge.py).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from labeling.engine_config import JudgeEngineConfig
from labeling.section import Section

Role = Literal["reward", "metric", "shadow"]
# The name is part of ledger keys and folder names.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Share = Annotated[float, Field(ge=0, le=1)]

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
    reasoning: Literal["before", "none"] = Field(
        "before", description="whether a written verdict gives its reasons before its score"
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
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"{prefix}.samples: {self.samples} samples at temperature 0 are one sample, paid "
                "several times; give a temperature"
            )
        return self


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
