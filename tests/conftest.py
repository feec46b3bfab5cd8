"""For all tests: what vLLM must find in the environment before it is imported; no network."""

from __future__ import annotations

import os

import pytest

from pipeline.runtime.machine import choose_device
from pipeline.runtime.process import prepare_environment

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # busy machines spin otherwise
prepare_environment(choose_device("auto"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three, since tests also wait for processes (`-n` for another number); none for files by name.

    Not by the number of cores: a container may see those of its host, and a night takes 2 GB.
    """
    return 0 if all(".py" in argument for argument in config.args) else 3
