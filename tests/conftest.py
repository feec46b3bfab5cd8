"""For all tests: what vLLM must find in the environment before it is imported; no network."""

from __future__ import annotations

import os

from pipeline.runtime.machine import choose_device
from pipeline.runtime.process import prepare_environment

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # busy machines spin otherwise
prepare_environment(choose_device("auto"))
