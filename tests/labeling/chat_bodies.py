"""What a chat endpoint of the tests answers, in OpenAI's shape and in Bedrock's."""

from __future__ import annotations

INPUT_TOKENS, OUTPUT_TOKENS = 100, 10
FINISH = {"length": ("length", "max_tokens"), "filtered": ("content_filter", "content_filtered")}


def completion_body(text: str, finish: str) -> dict[str, object]:
    first = {"token": text[:1], "logprob": -0.1, "bytes": None}
    tops = [first, {"token": " b", "logprob": -2.5, "bytes": None}]
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "served-model",
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": finish,
                "logprobs": {"content": [first | {"top_logprobs": tops}]},
            }
        ],
        "usage": {
            "prompt_tokens": INPUT_TOKENS,
            "completion_tokens": OUTPUT_TOKENS,
            "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
            "prompt_tokens_details": {"cached_tokens": 40},
        },
    }


def converse_body(text: str, finish: str) -> dict[str, object]:
    usage = {"inputTokens": INPUT_TOKENS, "outputTokens": OUTPUT_TOKENS}
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
        "stopReason": finish,
        "usage": usage | {"totalTokens": INPUT_TOKENS + OUTPUT_TOKENS},
        "metrics": {"latencyMs": 1},
    }


def changed(body: dict[str, object], kind: str) -> dict[str, object]:
    """A good answer with something missing, or another kind of answer."""
    if kind == "no_usage":
        return {name: value for name, value in body.items() if name != "usage"}
    if kind == "zero_usage":
        none = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0)
        none |= dict.fromkeys(("inputTokens", "outputTokens", "totalTokens"), 0)
        return body | {"usage": none}
    if kind == "refusal":
        message = {"role": "assistant", "content": None, "refusal": "I cannot do that."}
        return body | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return body
