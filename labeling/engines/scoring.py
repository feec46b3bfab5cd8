"""Reading label probabilities off a language model: what every scoring engine offers.

Token ids in, log-probs out, over the whole vocabulary and without a grammar mask, because a mask
hides that the model meant to say something else. Not here:
prompts, rubrics, scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class ScoreEngine(Protocol):
    """A loaded judge model. `name`, `version`, `dtype`, `device` go into every row.

    `max_prompt_tokens` is the longest prompt that still leaves room for the label.
    """

    name: str
    version: str
    dtype: str
    device: str
    max_prompt_tokens: int

    def label_logprobs(
        self, prompts: Sequence[list[int]], label_ids: Sequence[int]
    ) -> list[list[float]]:
        """Log-probs in nats, [prompts, labels], of each label as the token after each prompt.

        Raises whatever the backend raises when it is dead; prompts are never at fault, because
        they are not empty and not longer than `max_prompt_tokens`.
        """
        ...

    def write(self, prompts: Sequence[list[int]], max_tokens: int) -> list[str]:
        """What the model goes on to say after each prompt, greedily, at most `max_tokens`."""
        ...

    def close(self) -> None:
        """Frees the model."""
        ...
