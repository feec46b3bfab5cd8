"""`roundhouse evaluate-policy`: a suite's prompts through a policy, labelled: refusals, toxicity.

Sampling and labelling are the night's own (stages/rollouts.py, label_file.py), each in a process of
its own; nothing is published and a warehouse is only read, for the policies it holds. Not here: the
numbers (policy_numbers.py), their shape on paper (commands/suite_output.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.ingest.messages import MalformedPrompt, messages_of
from pipeline.policies.policies import PolicyChoice, chosen_policy
from pipeline.runtime.machine import choose_device
from pipeline.runtime.preloads import label_preloads, sampling_preloads
from pipeline.runtime.process import warm_up
from pipeline.runtime.progress import Heartbeat
from pipeline.suites.label_file import FileLabels, label_by, text_labelers
from pipeline.suites.policy_numbers import LabelerScores, PolicyNumbers, policy_numbers
from pipeline.suites.suite import Suite
from pipeline.suites.work import PROGRESS, logs_of, run_stage, stage_folder, write_texts


def evaluate_policy(
    config: RunConfig,
    suite: Suite,
    choice: PolicyChoice,
    names: Sequence[str],
    *,
    samples: int,
    near: Path,
    threshold: float = 0.5,
    say: Callable[[str], None],
) -> PolicyNumbers:
    """Samples every prompt of the suite `samples` times and measures what comes back.

    `names`: the labelers (none: all). `near`: the file whose folder may hold what is needed
    meanwhile. Raises ConfigError, StageFailed.
    """
    if choice.named is not None and choice.round is not None:
        raise ConfigError("evaluate-policy: --policy and --round exclude each other")
    labelers = text_labelers(config, names)  # a wrong name is found before sampling
    prompts = _prompts(suite)
    device = choose_device(config.device)
    with stage_folder(near) as work:
        modules = sorted({*sampling_preloads(config), *label_preloads(labelers)})
        warm_up(device, logs_of(work) / "imports.log", modules)
        revision = run_stage(
            work, "policy", "sampling", sample_suite, config, choice, prompts, samples, work,
            device=device,
        )  # fmt: skip
        rollouts = pq.read_table(work / "rollouts.parquet").to_pylist()
        dead = pq.read_table(work / "dead.parquet")["message"].to_pylist()
        say(f"policy     {revision}: {len(rollouts)} completions, {len(dead)} prompts refused")
        if not rollouts:
            raise ConfigError(f"suite {suite.path}: no prompt could be sampled: {dead[0]}")
        write_texts(
            work / "texts.jsonl",
            [
                {"prompt": suite.rows[int(row["prompt_id"])].text, "completion": row["completion"]}
                for row in rollouts
            ],
        )
        made = label_by(config, labelers, work / "texts.jsonl", work)
        labels = [_scores(one) for one in made]
    return policy_numbers(
        suite,
        revision,
        [int(row["prompt_id"]) for row in rollouts],
        [row["completion"] for row in rollouts],
        labels,
        threshold=threshold,
    )


def sample_suite(
    config: RunConfig, choice: PolicyChoice, prompts: pa.Table, samples: int, work: Path
) -> str:
    """The stage: samples the prompts into `work`; returns the policy's revision."""
    from pipeline.stages.rollout_worker import RolloutWorker, SamplerSettings

    policy = chosen_policy(config, choice)
    folder = work / PROGRESS
    folder.mkdir()
    heartbeat = Heartbeat(folder, "policy", prompts.num_rows * samples, "completions")
    worker = RolloutWorker(SamplerSettings.of(config, policy, samples, choice.round or 0))
    result = worker.run(prompts, heartbeat)
    worker.close()
    pq.write_table(result.rows, work / "rollouts.parquet")
    pq.write_table(result.dead, work / "dead.parquet")
    return policy.revision


def _prompts(suite: Suite) -> pa.Table:
    """The suite's texts as rows of prompts; the place in the suite is the id."""
    messages = []
    for row in suite.rows:
        try:
            messages.append(json.dumps(messages_of(row.text), ensure_ascii=False))
        except MalformedPrompt as error:
            raise ConfigError(f"suite {suite.path}:{row.line}: {error}") from error
    return pa.table(
        {
            "prompt_id": [str(place) for place in range(len(messages))],
            "purpose": ["holdout"] * len(messages),
            "messages": messages,
        }
    )


def _scores(made: FileLabels) -> LabelerScores:
    rows = pq.read_table(made.rows, columns=["criterion", "score"])
    scores = tuple(rows["score"].to_pylist())
    return LabelerScores(made.labeler, rows["criterion"][0].as_py(), scores)
