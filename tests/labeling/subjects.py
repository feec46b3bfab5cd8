"""Texts as a labeler gets them. Light: spawned test processes import it without torch."""

from __future__ import annotations

import json

import pyarrow as pa


def subjects(completions: list[str], *, question: str = "How are you?") -> pa.Table:
    """Completions as a labeler gets them, all of one prompt."""
    return subjects_of_bytes([text.encode() for text in completions], question=question)


def subjects_of_bytes(completions: list[bytes], *, question: str = "How are you?") -> pa.Table:
    """The same from bytes that Arrow does not check, as they come out of a file."""
    count = len(completions)
    messages = json.dumps([{"role": "user", "content": question}])
    texts = pa.array(completions, pa.large_binary())
    return pa.table(
        {
            "rollout_id": [f"r{i}" for i in range(count)],
            "round": pa.array([0] * count, pa.int32()),
            "prompt_id": ["p"] * count,
            "completion": pa.Array.from_buffers(pa.large_string(), count, texts.buffers()),
            "completion_sha256": ["c"] * count,
            "messages": pa.array([messages] * count, pa.large_string()),
        }
    )
