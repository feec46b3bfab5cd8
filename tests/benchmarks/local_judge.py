"""A judge on vLLM by the likelihood of score tokens against the same judge writing its verdict.

Same model, same engine, same process, same prompts. The model is a random Llama over bytes: what
it knows changes no speed. A verdict with its rationale is cut at TOKENS, about two sentences in the
tokens of a real judge; the number alone, `{"score":n}`, is 11 tokens here.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from statistics import median

from labeling.engines.chat import ChatRequest
from labeling.engines.config import VllmEngineConfig
from labeling.engines.local.vllm_chat import VllmChatEngine
from labeling.engines.local.vllm_scorer import VllmScorer
from labeling.engines.model_identity import identify_model
from pipeline.runtime.machine import choose_device
from tests.benchmarks.figures import print_figure, seconds_in_turn
from tests.labeling.models import byte_tokenizer, save_judge

ROWS, REPEATS, TOKENS, WARM_UP = 256, 3, 64, 16
NUMBER = {"type": "integer", "enum": list(range(1, 10))}


def main() -> None:
    """Prints rows/s of both, and their ratio."""
    with tempfile.TemporaryDirectory() as here:
        tokenizer = byte_tokenizer()
        folder = str(save_judge(Path(here), tokenizer=tokenizer))
        config = VllmEngineConfig(kind="vllm", model=folder)
        model = identify_model(folder, None, str)
        engine = VllmChatEngine(config, model, choose_device("auto"), tokenizer)
        scorer = VllmScorer.__new__(VllmScorer)  # over the engine that is there
        scorer._llm = engine._llm
        questions = _questions()
        prompts = [engine.token_ids(_request(text, False)) for text in questions]
        labels = [tokenizer.encode(str(n), add_special_tokens=False)[0] for n in range(1, 10)]
        ways = {
            "tokens": lambda n: scorer.label_logprobs(prompts[: _rows(n)], labels),
            "json": lambda n: engine.complete([_request(t, True) for t in questions[: _rows(n)]]),
            "number": lambda n: engine.complete(
                [_request(t, False) for t in questions[: _rows(n)]]
            ),
        }
        spent = seconds_in_turn(ways, REPEATS)
    rate = {name: ROWS / median(s.wall for s in runs) for name, runs in spent.items()}
    ratio = rate["tokens"] / rate["json"]
    print_figure(
        "local judge",
        f"score tokens {rate['tokens']:,.0f} rows/s, JSON {rate['json']:,.0f}, ratio {ratio:.1f}",
        wanted=">= 5",
        is_met=ratio >= 5,
        note=f"{ROWS} prompts of {len(prompts[0])} tokens, verdicts cut at {TOKENS}; the number "
        f"alone as JSON {rate['number']:,.0f} rows/s; median of {REPEATS}",
    )


def _rows(repeat: int) -> int:
    return ROWS if repeat else WARM_UP


def _questions() -> list[str]:
    rng = random.Random(0)
    return [
        "Rate from 1 to 9 how helpful this is: " + "".join(rng.choices("etaoin shrdlu", k=160))
        for _ in range(ROWS)
    ]


def _request(text: str, has_rationale: bool) -> ChatRequest:
    properties: dict[str, object] = {"score": NUMBER}
    if has_rationale:
        properties = {"rationale": {"type": "string"}, "score": NUMBER}
    schema = {"type": "object", "properties": properties, "required": list(properties),
              "additionalProperties": False}  # fmt: skip
    message = {"role": "user", "content": text}
    return ChatRequest(text, (message,), max_tokens=TOKENS, seed=0, schema=schema)


if __name__ == "__main__":
    main()
