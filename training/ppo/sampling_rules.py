"""Which sampling parameters leave the policy's own distribution alone, and which bend it.

Not here: those that have a column of their own (trainable_rows.sql).
"""

from __future__ import annotations

import json

import pyarrow as pa

# Sampling parameters beside the columns, and the values at which they change nothing.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "repetition_penalty": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "min_p": (0,),
    "min_tokens": (0,),
    "logit_bias": (None, {}),
    "stop": (None, []),
    "stop_token_ids": (None, []),
    "bad_words": (None, []),
    "allowed_token_ids": (None,),
    "structured_outputs": (None,),
    "ignore_eos": (False,),
}
_INERT = frozenset({"n", "seed", "logprobs", "flat_logprobs", "max_tokens", "detokenize"})


def bent_sampling(column: pa.ChunkedArray) -> pa.Table:
    """Each sampling_json that bends the distribution, with the reason."""
    reasons = {text: _bent_reason(text) for text in column.unique().to_pylist() if text}
    bent = {text: reason for text, reason in reasons.items() if reason}
    return pa.table(
        {
            "sampling_json": pa.array(bent.keys(), pa.string()),
            "reason": pa.array(bent.values(), pa.string()),
        }
    )


def _bent_reason(sampling_json: str) -> str | None:
    try:
        parameters = json.loads(sampling_json)
    except ValueError:
        return "sampling_json is not readable"
    if not isinstance(parameters, dict):
        return "sampling_json is not readable"
    for name, value in sorted(parameters.items()):
        if name not in _INERT and value not in _NEUTRAL.get(name, ()):
            return f"sampling parameter {name} is set"
    return None
