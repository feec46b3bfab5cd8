"""The Beam options of each runner. Knows runners, not stages.

`FnApiRunner` is the default: the `DirectRunner` of Beam 2.77 first tries to download Prism and then
silently becomes another runner (beam issues 34612, 34549). Runners that lose data in our shape
are refused here rather than discovered in the morning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipeline.config import BeamConfig


def beam_options(config: BeamConfig) -> PipelineOptions:
    """Pipeline options for this configuration; `config.options` (after `--`) come last and win."""
    from apache_beam.options.pipeline_options import PipelineOptions

    flags = [f"--runner={config.runner}"]
    if config.runner == "FnApiRunner" and config.workers > 1:
        flags += [
            "--direct_running_mode=multi_processing",
            f"--direct_num_workers={config.workers}",
        ]
    if config.runner.endswith("DaskRunner"):
        # Each shard must be its own partition, or all of them land on one worker.
        flags.append("--dask_partition_size=1")
    return PipelineOptions(flags + list(config.options))
