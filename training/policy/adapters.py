"""LoRA on a policy: small trained matrices beside frozen weights (Hu et al. 2106.09685).

A policy with an adapter lies in two forms: merged, at the top of its folder, which is what engines
load and what its revision is of; and the adapter alone in `adapter/`, which training goes on from.
The base with the adapter switched off is the reference policy. Light until a function is called.
Not here: the forward pass (actor_critic.py).
"""

from __future__ import annotations

from collections.abc import Iterable
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
    from safetensors import SafetensorError

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
    names = [name for name, _ in base.named_modules()]
    try:
        model = PeftModel.from_pretrained(base, folder, is_trainable=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise AdapterError(
            f"{folder}: the adapter does not fit its base, or is damaged "
            f"({str(error).strip().splitlines()[0]}); restore the folder and the base it was "
            "trained on, or begin a new warehouse"
        ) from error
    found: Any = model.peft_config["default"]
    kept: list[tuple[str, Any, Any]] = [
        ("r", wanted.r, found.r),
        ("alpha", wanted.lora_alpha, found.lora_alpha),
    ]
    has = found.target_modules
    has = [has] if isinstance(has, str) else has  # a pattern, which no list of names is
    if not isinstance(targets, str) and _layers(names, targets) != _layers(names, has):
        stored = sorted({target.rpartition(".")[2] for target in has})
        kept.append(("target_modules", list(targets), stored))
    for name, asked, there in kept:
        if asked != there:
            raise AdapterError(
                f"policy.adapter.{name}: the configuration says {asked}, the policy in "
                f"{folder.parent} has {there}; keep it, or begin a new warehouse"
            )
    return model


def _layers(names: Iterable[str], targets: Iterable[str]) -> set[str]:
    """The layers that these ends of names choose, as PEFT reads them."""
    ends = tuple(f".{target}" for target in targets)
    return {name for name in names if f".{name}".endswith(ends)}


def save_merged(model: PeftModel, folder: Path) -> None:
    """Writes `adapter/`, then the merged policy. The model is merged afterwards: use it no more."""
    model.save_pretrained(str(folder / ADAPTER))
    merged: Any = model.merge_and_unload()
    merged.save_pretrained(folder)
