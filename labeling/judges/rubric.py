"""A rubric: what a judge is told and which labels it may answer with, as a versioned YAML file.

Not here: chat templates and token ids (prompt.py), how files are found and stored (shipped.py).
"""

from __future__ import annotations

import math
import re

from pydantic import BaseModel, ConfigDict, Field, model_validator

from labeling.section import Section
from labeling.shipped import ShippedFile
from warehouse.files import text_sha256

_SLOT = re.compile(r"\{(conversation|question|completion|second|nonce|principle)\}")
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}


class Message(BaseModel):
    """One turn of a prompt, as the warehouse stores it."""

    model_config = ConfigDict(frozen=True)

    role: str
    content: str


class Principle(Section):
    """One sentence of a constitution; its name goes into the label."""

    name: str = Field(min_length=1)
    text: str = Field(min_length=1)


class Rubric(ShippedFile):
    """A rubric file. `values` are the labels' numbers, by default the labels read as numbers.

    `written` is the request for an answer in JSON, for judges that write; `principles` are drawn
    from, one per completion, for the slot {principle}. A rubric with the slot {second} compares two
    completions: its first label prefers {completion}, its second one {second}.
    """

    kind = "rubric"
    folder = "rubrics"

    criterion: str
    labels: tuple[str, ...] = Field(min_length=2)
    values: tuple[float, ...] = ()
    system: str | None = None
    user: str
    answer_prefix: str = ""
    written: str | None = None
    principles: tuple[Principle, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _labels_are_values(cls, raw: object) -> object:
        if isinstance(raw, dict) and "values" not in raw and isinstance(raw.get("labels"), list):
            return raw | {"values": raw["labels"]}
        return raw

    @model_validator(mode="after")
    def _hangs_together(self) -> Rubric:
        if len(self.values) != len(self.labels) or len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ, and values must give each of them one number")
        if not all(map(math.isfinite, self.values)) or len(set(self.values)) < 2:
            raise ValueError("values must be finite and not all the same")
        if "{completion}" not in self.user:
            raise ValueError("user has no {completion}: the judge would not see what it judges")
        if self.is_pairwise and self.values != (1.0, 0.0):
            raise ValueError(
                "a rubric with {second} has two labels and values [1, 0]: how far {completion}, "
                "which stands first, is preferred"
            )
        for part, text in (("system", self.system), ("written", self.written)):
            if text and re.search(r"\{(conversation|question|completion|second)\}", text):
                raise ValueError(
                    f"{part} may hold {{nonce}} and {{principle}} only: texts to be judged belong "
                    "into user"
                )
        if bool(self.principles) != ("{principle}" in (self.system or "") + self.user):
            raise ValueError("principles and the slot {principle} in system or user go together")
        if len({principle.name for principle in self.principles}) != len(self.principles):
            raise ValueError("principles: every name may stand once")
        return self

    @property
    def is_pairwise(self) -> bool:
        """Whether it compares two completions."""
        return "{second}" in self.user

    @property
    def scale(self) -> str:
        """The scale of `score_raw`, for instance 1..9."""
        return f"{min(self.values):g}..{max(self.values):g}"

    def share(self, value: float) -> float:
        """A value of the rubric's scale in [0, 1]."""
        low, high = min(self.values), max(self.values)
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def draw_principle(self, rollout_id: str, seed: int) -> Principle | None:
        """The principle for one completion: the same every time, or None where there are none."""
        if not self.principles:
            return None
        drawn = int(text_sha256(f"{seed} {rollout_id}")[:16], 16)
        return self.principles[drawn % len(self.principles)]

    def fill(
        self,
        part: str,
        messages: list[Message],
        completion: str,
        nonce: str,
        principle: Principle | None = None,
        second: str = "",
    ) -> str:
        """`part` (system or user) with its slots filled, each once: what a text says stays text."""
        questions = [message.content for message in messages if message.role == "user"]
        slots = {
            "conversation": "\n\n".join(
                f"{_SPEAKERS.get(message.role, message.role)}: {message.content}"
                for message in messages
            ),
            "question": questions[-1] if questions else "",
            "completion": completion,
            "second": second,
            "nonce": nonce,
            "principle": principle.text.rstrip("\n") if principle else "",
        }
        return _SLOT.sub(lambda match: slots[match.group(1)], part.rstrip("\n"))
