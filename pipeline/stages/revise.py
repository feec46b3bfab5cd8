"""Stage: stored completions -> revised completions, and pairs that prefer the revision.

Constitutional revision (Bai et al. 2212.08073, section 3.1): the worst train completions of a round
by a labeler's scores are criticised by a principle drawn per completion, and revised. One commit
per round and recipe holds the calls (`labels`, kind reviser), the revised texts (`rollouts`: round,
token ids and log-probs NULL, because the policy did not sample them) and `preference_pairs` with
recipe `revision/<name>@<hash>`: revision over original, only where the call went well and the texts
differ. Margin 0: nobody measured how much better. The hash covers reviser and selection, so another
threshold is another recipe, and what was asked before is answered from the answer cache.
Not here: what is asked (labeling/reviser/wording.py), training on it (training/preference/rows.py).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from labeling.errors import LabelingError
from labeling.reviser.config import RevisionConfig
from labeling.reviser.reviser import Reviser, reviser_revision
from labeling.reviser.wording import read_revision
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.policies.policies import resolve
from pipeline.runtime.machine import choose_device
from pipeline.runtime.publishing import StageReport, publish_stage
from pipeline.runtime.shards import run_stage, split_rows, stage_spec, staged_rows
from pipeline.stages.labels import LabelRowsWorker, paid_work
from warehouse import schemas
from warehouse.files import sha256_of, text_sha256
from warehouse.handle import Warehouse
from warehouse.keys import revision_key
from warehouse.publish import read_staged

_SELECTED = """
with chosen as (
    select rollout_id, $sign * score as badness
    from completion_scores
    where round = $round and purpose = 'train' and labeler = $labeler
        and $sign * score >= $threshold
    order by badness desc, rollout_id
    limit $max_rows
)
select
    rollouts.rollout_id, rollouts.round, rollouts.prompt_id, rollouts.completion,
    rollouts.completion_sha256, prompts.messages, rollouts.sample_index
from chosen
inner join rollouts on chosen.rollout_id = rollouts.rollout_id
inner join prompts on rollouts.prompt_id = prompts.prompt_id and prompts.purpose = 'train'
where trim(rollouts.completion) <> ''
order by rollouts.rollout_id
"""


def revision_recipe(config: RunConfig, section: RevisionConfig) -> str:
    """16 hex digits of all that decides which completions are revised, and how. ConfigError."""
    try:
        reviser = reviser_revision(section, config.seed, functools.partial(resolve, config))
    except LabelingError as error:
        raise ConfigError(str(error)) from error
    return sha256_of([reviser, section.select.model_dump(mode="json")])[:16]


def revise(config: RunConfig, warehouse: Warehouse, stage: str, round_number: int) -> StageReport:
    """Revises and publishes the chosen completions of a round. Raises ConfigError, StageError."""
    section = config.revision
    assert section is not None, "night.revise asks first"
    recipe = revision_recipe(config, section)
    key = revision_key(round_number, section.name, recipe)
    if warehouse.is_published(key):
        return StageReport(key)
    subjects = read_selected(warehouse, section, round_number)
    identity = sha256_of([key, subjects["completion_sha256"].to_pylist()])
    spec = stage_spec(config, stage, identity, "calls")
    make = functools.partial(ReviseWorker, config, section, recipe, round_number)
    manifests = run_stage(spec, split_rows(subjects, config.beam.shard_rows), make)
    calls = read_staged(staged_rows(spec, manifests, "rows"), "labels")
    rollouts, pairs = revised_rows(calls, subjects, f"{section.name}@{recipe}")
    # Without a round: the revised texts have none, the other rows carry their own.
    report = publish_stage(
        config, spec, manifests, "labels", key=key,
        extra={"rollouts": rollouts, "preference_pairs": pairs},
    )  # fmt: skip
    final = calls.filter(pc.field("is_final"))
    failed = final["score"].null_count
    unchanged = final.num_rows - failed - pairs.num_rows
    notes = {"pairs": str(pairs.num_rows), "unchanged": str(unchanged), "failed": str(failed)}
    return replace(report, notes=notes)


def read_selected(warehouse: Warehouse, section: RevisionConfig, round_number: int) -> pa.Table:
    """The completions to revise, by id: the worst `max_rows` beyond the threshold.

    Raises ConfigError where the labeler has scored nothing of the round.
    """
    select = section.select
    sign = 1 if select.at_least is not None else -1
    threshold = select.at_least if select.at_most is None else -select.at_most
    parameters: dict[str, Any] = {"round": round_number, "labeler": select.labeler}
    con = warehouse.connect()
    ((scored,),) = con.execute(
        "select count(*) from completion_scores where round = $round and purpose = 'train' "
        "and labeler = $labeler",
        parameters,
    ).fetchall()
    if not scored:
        con.close()
        raise ConfigError(
            f"revision.select.labeler: {select.labeler} has scored no train completion of round "
            f"{round_number} in {warehouse.root}; generate and label the round first"
        )
    parameters |= {"sign": sign, "threshold": threshold, "max_rows": select.max_rows}
    found: pa.Table = con.sql(_SELECTED, params=parameters).to_arrow_table()
    con.close()
    return found


def revised_rows(calls: pa.Table, subjects: pa.Table, reviser: str) -> tuple[pa.Table, pa.Table]:
    """Rows of `rollouts` and of `preference_pairs` for what the final calls changed.

    `reviser` is name@hash; a revised completion's id is its original's with that.
    """
    originals = {row["rollout_id"]: row for row in subjects.to_pylist()}
    rollouts, pairs = [], []
    for call in calls.to_pylist():
        if not call["is_final"] or call["score"] != 1.0:
            continue
        text = read_revision(call["raw_output"]).text
        assert text is not None, f"label {call['label_id']} has a score and no revision"
        original = originals[call["rollout_id"]]
        revised = _rollout(call, original, text, reviser)
        rollouts.append(revised)
        pairs.append(
            {
                "prompt_id": call["prompt_id"],
                "round": call["round"],
                "recipe": f"revision/{reviser}",
                "chosen_id": revised["rollout_id"],
                "rejected_id": call["rollout_id"],
                "margin": 0.0,
            }
        )
    return (
        schemas.table_from_rows("rollouts", rollouts),
        schemas.table_from_rows("preference_pairs", pairs),
    )


def _rollout(
    call: Mapping[str, Any], original: Mapping[str, Any], text: str, reviser: str
) -> dict[str, object]:
    return {
        "rollout_id": f"{call['rollout_id']}-revised-{reviser}",
        "prompt_id": call["prompt_id"],
        "sample_index": original["sample_index"],
        "purpose": "train",
        "policy_revision": f"reviser/{reviser}",
        "completion": text,
        "completion_sha256": text_sha256(text),
        "engine": call["backend"],
        "engine_version": call["backend_version"],
        "generated_at": datetime.now(UTC),
    }


class ReviseWorker(LabelRowsWorker):
    """Revises shards with one loaded reviser; a row is a call about a completion."""

    def __init__(
        self, config: RunConfig, section: RevisionConfig, recipe: str, round_number: int
    ) -> None:
        loaded = Reviser(
            section,
            recipe=recipe,
            device=choose_device(config.device),
            seed=config.seed,
            resolve=functools.partial(resolve, config),
            paid=paid_work(config, round_number),
        )
        super().__init__(config, loaded, loaded.revise)
