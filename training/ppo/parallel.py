"""Several processes that train one policy: shares of every minibatch, gradients of the whole.

What a process may not see is that there are others: losses are divided by the token count of the
whole minibatch, so gradients add up to those of one process. DDP holds the model in each, FSDP a
shard of it; both through accelerate. Not here: starting the processes (processes.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from training.policy.actor_critic import ActorCritic
    from training.ppo.config import TrainingConfig

_Item = TypeVar("_Item")


class Parallel:
    """One process among those of its run, which the environment names (RANK, WORLD_SIZE)."""

    def __init__(self, config: TrainingConfig, device: torch.device) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.is_main = self.rank == 0
        self.is_sharded = self.world > 1 and config.strategy == "fsdp"
        self._is_cpu = device.type == "cpu"
        self._accelerator: Any = None
        if self.world > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=self._is_cpu)  # joins the others, takes a device

    def prepare(
        self, model: ActorCritic, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The model whose forward pass and the optimizer whose step are those of all processes."""
        if self.world == 1:
            return model, optimizer
        from accelerate import Accelerator

        plugin = _plugin(model) if self.is_sharded else None
        self._accelerator = Accelerator(cpu=self._is_cpu, fsdp_plugin=plugin)
        wrapped, stepped = self._accelerator.prepare(model, optimizer)
        return wrapped, stepped

    def share(self, whole: Sequence[_Item]) -> list[tuple[_Item, float]]:
        """Our own items with weight 1. All processes have equally many: a repeated one weighs 0.

        A forward pass of a wrapped model is a step that all processes take together.
        """
        mine = [(item, 1.0) for item in whole[self.rank :: self.world]]
        wanted = -(-len(whole) // self.world)
        return mine + [(whole[0], 0.0)] * (wanted - len(mine))

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all processes, where `x` was."""
        if self.world == 1:
            return x
        moved = x.to(self._state.device)
        torch.distributed.all_reduce(moved)
        return moved.to(x.device)

    def gather(self, items: Iterable[_Item]) -> list[_Item]:
        """Everybody's items, process by process."""
        if self.world == 1:
            return list(items)
        from accelerate.utils import gather_object

        found: list[_Item] = gather_object(list(items))
        return found

    def clip(self, model: nn.Module, max_norm: float) -> float:
        """Clips the whole gradient to `max_norm`; its norm before."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        if self.world == 1:
            return float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
        norm = self._accelerator.clip_grad_norm_(parameters, max_norm)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The whole model's weights, on the CPU of the main process."""
        found: dict[str, Tensor] = self._accelerator.get_state_dict(model)
        return {name: value.detach().cpu() for name, value in found.items()}

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            self._state.wait_for_everyone()


def _plugin(model: ActorCritic) -> Any:
    from accelerate.utils import FullyShardedDataParallelPlugin

    blocks = {
        type(module[0]).__name__
        for module in model.policy.modules()
        if isinstance(module, nn.ModuleList) and len(module)
    }
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=sorted(blocks),
    )
