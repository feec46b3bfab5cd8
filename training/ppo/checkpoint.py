"""Where a killed training goes on: everything that decides the next optimizer step, on disk.

A folder per point, renamed in whole: trained weights and critic, optimizer, schedule, random state,
metrics so far and the position in the epochs; beside them, once, what was computed before the first
step. safetensors, JSON and Parquet, no pickles. What belongs to other rows, another policy or
another configuration has another run id and is not read.
Not here: the trained policy (trainer.py), finished stages (pipeline).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.ppo.dataset import TrainingSet
from training.ppo.stored_round import PreparedRound, StoredRound
from warehouse.files import leftovers, whole_folder

_log = logging.getLogger(__name__)
_PREPARED, _POINT = "prepared", "step="


@dataclass(frozen=True)
class Position:
    """What comes next: minibatch `place` of `epoch` (from 1) as optimizer step `step` + 1.

    `seen` are the metrics of this epoch's minibatches so far.
    """

    epoch: int
    place: int
    step: int
    seen: list[dict[str, float]]


class Checkpoints:
    """The points of one training run in `folder`; None: nothing is kept and nothing found."""

    def __init__(self, folder: Path | None, run_id: str) -> None:
        self._folder = None if folder is None else folder / run_id

    def save_prepared(self, prepared: PreparedRound, value_head: Mapping[str, Tensor]) -> None:
        """Keeps what is computed before the first step, and the critic after its warm-up."""
        if self._folder is None:
            return
        tensors = {f"stored.{f.name}": getattr(prepared.stored, f.name) for f in _STORED}
        tensors |= {f"value_head.{name}": value for name, value in value_head.items()}
        about = {"stale": list(prepared.stale.items()), "metrics": prepared.metrics}
        self._put(_PREPARED, {"tensors": tensors}, about)

    def prepared(self, rows: TrainingSet) -> tuple[PreparedRound, dict[str, Tensor]] | None:
        """What save_prepared kept of these rows."""
        found = self._get(_PREPARED, ("tensors",))
        if found is None:
            return None
        tensors, about = found[0]["tensors"], found[1]
        stored = StoredRound(**{f.name: tensors[f"stored.{f.name}"] for f in _STORED})
        stale = dict(about["stale"])
        rows = rows.without(stale) if stale else rows
        part = "value_head."
        head = {k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)}
        return PreparedRound(rows, stored, about["metrics"], stale), head

    def save(
        self,
        position: Position,
        parameters: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        metrics: pa.Table,
    ) -> None:
        """Adds the point after `position.step`; earlier ones go once it stands."""
        if self._folder is None:
            return
        name = f"{_POINT}{position.step:08d}"
        state = optimizer.state_dict()
        moments = {
            f"{place}.{key}": value
            for place, values in state["state"].items()
            for key, value in values.items()
        }
        random = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        files = {"parameters": dict(parameters), "optimizer": moments, "random": random}
        about = {
            "position": vars(position),
            "rates": [group["lr"] for group in state["param_groups"]],
            "schedule": schedule.state_dict(),
        }
        self._put(name, files, about, metrics)
        for earlier in self._folder.glob(f"{_POINT}*"):
            if earlier.name != name:
                shutil.rmtree(earlier, ignore_errors=True)

    def restore(
        self,
        parameters: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> tuple[Position, pa.Table] | None:
        """Puts the last point's state into the arguments; its position and metrics, if any."""
        if self._folder is None:
            return None
        for folder in sorted(self._folder.glob(f"{_POINT}*"), reverse=True):
            found = self._get(folder.name, ("parameters", "optimizer", "random"))
            if found is not None:
                files, about = found
                with torch.no_grad():
                    for name, parameter in parameters.items():
                        parameter.copy_(files["parameters"][name])
                _fill(optimizer, files["optimizer"], about["rates"])
                schedule.load_state_dict(about["schedule"])
                torch.set_rng_state(files["random"]["cpu"])
                if "cuda" in files["random"]:
                    torch.cuda.set_rng_state(files["random"]["cuda"])
                return Position(**about["position"]), pq.read_table(folder / "metrics.parquet")
        return None

    def clear(self) -> None:
        """Removes everything: the trained policy is written."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _put(
        self,
        name: str,
        files: Mapping[str, Mapping[str, Tensor]],
        about: Mapping[str, Any],
        metrics: pa.Table | None = None,
    ) -> None:
        assert self._folder is not None
        for left in leftovers(self._folder / name):  # by a killed run of this training
            shutil.rmtree(left, ignore_errors=True)
        with whole_folder(self._folder / name, replace=True) as fresh:
            for part, tensors in files.items():
                # Copies: the file format refuses tensors that share memory, as tied weights do.
                whole = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
                save_file(whole, fresh / f"{part}.safetensors")
            if metrics is not None:
                pq.write_table(metrics, fresh / "metrics.parquet")
            (fresh / "about.json").write_text(json.dumps(about), encoding="utf-8")

    def _get(
        self, name: str, parts: tuple[str, ...]
    ) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        if self._folder is None or not (self._folder / name).is_dir():
            return None
        folder = self._folder / name
        try:
            about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            return {part: load_file(folder / f"{part}.safetensors") for part in parts}, about
        except (OSError, ValueError, SafetensorError) as error:
            _log.warning("%s cannot be read (%s): training begins before it", folder, error)
            return None


_STORED = fields(StoredRound)


def _fill(
    optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor], rates: list[float]
) -> None:
    state = optimizer.state_dict()
    filled: dict[int, dict[str, Tensor]] = {}
    for name, value in moments.items():
        place, _, key = name.partition(".")
        filled.setdefault(int(place), {})[key] = value
    for group, rate in zip(state["param_groups"], rates, strict=True):
        group["lr"] = rate
    optimizer.load_state_dict({"state": filled, "param_groups": state["param_groups"]})
