"""A vLLM engine, for whoever scores, judges or samples with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labeling.engines.config import VllmEngineConfig
from labeling.engines.model_identity import ModelIdentity

if TYPE_CHECKING:
    from vllm import LLM


def load_vllm(
    model: str,
    *,
    device: str,
    dtype: str = "auto",
    max_model_len: int | None = None,
    **options: Any,
) -> LLM:
    """A vLLM engine. On CPU: float32, no graph capture, no chunked prefill (see the module)."""
    from vllm import LLM

    settings: dict[str, Any] = {
        "seed": 0,
        "disable_log_stats": True,
        "max_model_len": max_model_len,
    }
    if device == "cpu":
        settings |= {
            "dtype": "float32" if dtype == "auto" else dtype,
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(8192, max_model_len or 0),
            "max_num_seqs": 256,
        }
    else:
        settings |= {"dtype": dtype, "gpu_memory_utilization": 0.9}
    return LLM(model, **(settings | options))


def load_judge(config: VllmEngineConfig, model: ModelIdentity, device: str, **options: Any) -> LLM:
    """A vLLM engine by the `engine` section of a judge."""
    options |= {"revision": model.commit, "tokenizer_revision": model.commit}
    if device != "cpu":
        options["gpu_memory_utilization"] = config.gpu_memory_utilization
    return load_vllm(
        model.location,
        device=device,
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        **options,
    )
