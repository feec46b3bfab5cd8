"""LoRA on a policy: small trained matrices beside frozen weights (Hu et al. 2106.09685).

A policy with an adapter lies in two forms: merged, at the top of its folder, which is what engines
load and what its revision is of; and the adapter alone in `adapter/`, which training goes on from.
The base with the adapter switched off is the reference policy. Light until a function is called.
Not here: the forward pass (actor_critic.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from warehouse.errors import RoundhouseError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

ADAPTER = "adapter"  # a subfolder: engines load what lies at the top only


class AdapterConfig(BaseModel):
    """The keys of `policy.adapter`. There is no dropout: the policy that trains must be the one
    that sampled.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    r: int = Field(16, ge=1, description="rank of the trained matrices")
    alpha: int = Field(32, gt=0, description="their product is scaled by alpha / r")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description="layers by the end of their name; all-linear: all but the head"
    )


class AdapterError(RoundhouseError, ValueError):
    """An adapter that does not fit its policy; the message says what to change."""

    exit_code = 2


def with_adapter(base: PreTrainedModel, config: AdapterConfig, folder: Path | None) -> PeftModel:
    """The base with the adapter in `folder`, or with a new one that changes nothing yet.

    Raises AdapterError for an adapter of another rank, scale or layers and for layers that are not
    there.
    """
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    targets = config.target_modules
    wanted = LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="SEQ_2_SEQ_LM" if base.config.is_encoder_decoder else "CAUSAL_LM",
    )
    if folder is None:
        try:
            # Half of a new adapter is random: equal nights must begin with equal ones.
            with torch.random.fork_rng():
                torch.manual_seed(0)
                return get_peft_model(base, wanted)
        except ValueError as error:
            raise AdapterError(f"policy.adapter.target_modules {targets}: {error}") from error
    model = PeftModel.from_pretrained(base, folder, is_trainable=True)
    found = model.peft_config["default"]
    for name, key in (("r", "r"), ("alpha", "lora_alpha")):
        if getattr(found, key) != getattr(wanted, key):
            raise AdapterError(
                f"policy.adapter.{name}: the configuration says {getattr(wanted, key)}, the policy "
                f"in {folder.parent} has {getattr(found, key)}; keep it, or begin a new warehouse"
            )
    return model


def save_merged(model: PeftModel, folder: Path) -> None:
    """Writes `adapter/`, then the merged policy. The model is merged afterwards: use it no more."""
    model.save_pretrained(str(folder / ADAPTER))
    merged: Any = model.merge_and_unload()
    merged.save_pretrained(folder)
