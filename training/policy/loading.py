"""A policy's folder -> the model on its device, in its precision, with its adapter.

Not here: what is computed with it (actor_critic.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from training.policy import encoder_decoder
from training.policy.adapters import ADAPTER, AdapterConfig, AdapterError, with_adapter
from warehouse.errors import RoundhouseError

if TYPE_CHECKING:
    from peft import PeftModel

_DROPOUTS = (
    *("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "hidden_dropout"),
    "dropout_rate",
)


class UnsupportedPolicy(RoundhouseError, ValueError):
    """A model that PPO cannot train here; the message says why."""

    exit_code = 2


def resolve_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA, else float32: the precision that the engine samples in."""
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]


def load_policy(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    adapter: AdapterConfig | None = None,
    base: Path | str | None = None,
) -> tuple[PreTrainedModel, PeftModel | None]:
    """The policy in `folder`; with `adapter` the frozen weights of `base` and what trains beside.

    Raises AdapterError.
    """
    is_encoder_decoder = AutoConfig.from_pretrained(folder).is_encoder_decoder
    loader = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    source = folder if adapter is None or base is None else Path(base)
    # Frozen weights need no more precision than the forward pass has.
    kept = torch.float32 if adapter is None else dtype
    policy: PreTrainedModel = loader.from_pretrained(source, dtype=kept)
    encoder_decoder.say_untied(policy)
    policy.to(device)  # type: ignore[arg-type]  # its decorator hides the signature
    if adapter is None:
        return policy, None
    adapted = with_adapter(policy, adapter, _adapter_of(folder, source))
    return adapted.get_base_model(), adapted  # type: ignore[return-value]


def checkpoint_activations(policy: PreTrainedModel, *, is_adapted: bool) -> None:
    """Computes activations again in the backward pass instead of keeping them.

    The library does so in its training mode only, where dropout would be on: a model with dropout
    raises UnsupportedPolicy.
    """
    for name in _DROPOUTS:
        if getattr(policy.config, name, 0.0):
            raise UnsupportedPolicy(
                f"{type(policy).__name__} has {name}: set it to 0 in its config.json, or "
                "training.gradient_checkpointing to false"
            )
    for module in policy.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    policy.gradient_checkpointing_enable({"use_reentrant": False})
    if is_adapted:
        policy.enable_input_require_grads()
    policy.train()


def _adapter_of(folder: Path, base: Path) -> Path | None:
    """Where the policy's adapter lies; None for the base itself, which has none yet."""
    if folder == base:
        return None
    if not (folder / ADAPTER).is_dir():
        raise AdapterError(
            f"policy.adapter: the policy in {folder} was trained without an adapter; leave the key "
            "out, or begin a new warehouse"
        )
    return folder / ADAPTER
