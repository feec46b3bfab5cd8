"""Both scoring engines read the same likelihoods; vLLM runs in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from labeling.engines.config import TransformersEngineConfig
from labeling.engines.model_identity import identify_model

PROMPTS = [[1, *range(10, 30)], [5], list(range(3, 200)), [9, 9, 9]]
LABELS = [20, 21, 22, 3]
SCRIPT = f"""
import json, sys
from labeling.engines.config import VllmEngineConfig
from labeling.engines.local.vllm_scorer import VllmScorer
from labeling.engines.model_identity import identify_model
config = VllmEngineConfig(kind="vllm", model=sys.argv[1], max_model_len=256)
scorer = VllmScorer(config, identify_model(config.model, None, str), "cpu")
found = scorer.label_logprobs({PROMPTS}, {LABELS})
longest = scorer.label_logprobs([[7] * scorer.max_prompt_tokens], {LABELS})
written = scorer.write({PROMPTS}, 6)
assert scorer.write([], 6) == []
about = [scorer.max_prompt_tokens, scorer.dtype, scorer.name, written]
print(json.dumps([found, longest, *about]))
"""


def test_vllm_and_transformers_agree(judge_folder: Path):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM has no build for this platform")
    from labeling.engines.local.transformers_scorer import TransformersScorer

    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(judge_folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found, longest, room, dtype, name, written = json.loads(done.stdout.splitlines()[-1])
    config = TransformersEngineConfig(
        kind="transformers", model=str(judge_folder), max_model_len=256
    )
    plain = TransformersScorer(config, identify_model(config.model, None, str), "cpu")
    assert (room, dtype, name) == (plain.max_prompt_tokens, plain.dtype, "vllm")
    expected = plain.label_logprobs([*PROMPTS, [7] * room], LABELS)
    for ours, theirs in zip([*found, *longest], expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    # Six bytes may end within a character, which one of them leaves out and the other marks.
    assert [t.rstrip("\ufffd") for t in written] == [
        t.rstrip("\ufffd") for t in plain.write(PROMPTS, 6)
    ]
