"""Lineage of a number: the commit, policy, rows, labels, settings and files behind it.

It is traced at the version that its commit saw, so that labels published later do not pass for its
own. Not here: the numbers themselves (the marts, pipeline).
"""

from __future__ import annotations

from warehouse.keys import evaluation_key
from warehouse.ledger.commits import Commit
from warehouse.lineage.trace import (
    LABELERS,
    SAMPLING,
    Lineage,
    NotFound,
    Row,
    Trace,
    commit_row,
    stored_config,
    values,
)


def trace_number(lineage: Lineage, round: int, metric: str, labeler: str | None) -> Trace:
    """What is behind one number of `evaluations`: commit, policy, rollouts, labels, config, files.

    Raises NotFound, also where several labelers have this metric and none is named.
    """
    number = _number(lineage, round, metric, labeler)
    stored = lineage.files_with("evaluations", [round], "round", [round])
    # The commit that measured the round, also where its file was rewritten since.
    measured = (c for c in lineage.commits if c.key == evaluation_key(round))
    commit = next(measured, None) or lineage.writer(stored[0])
    then = lineage.at(commit.version)
    rounds = _rounds_behind(then, round, metric)
    labels = then.ask(_LABELS, rounds=rounds, labeler=number["labeler"])
    rollouts = then.ask(_ROLLOUTS, rounds=rounds)
    files = [
        *stored,
        *then.files_with("rollouts", rounds, "rollout_id", values(rollouts, "rollout_id")),
        *then.files_with("labels", rounds, "label_id", values(labels, "label_id")),
        *then.files_with("prompts", None, "prompt_id", values(rollouts, "prompt_id")),
        *then.files_with("templates", None, "template_sha256", values(labels, "template_sha256")),
    ]
    if metric == "kl_to_reference":
        ids = values(rollouts, "rollout_id")
        files += then.files_with("policy_logprobs", rounds, "rollout_id", ids)
    return {
        "number": number,
        "written by": commit_row(commit),
        "policy": lineage.policy_row(number["policy_revision"]),
        "sampling": then.ask(SAMPLING, purpose="holdout", rounds=rounds),
        "labelers": then.ask(_HOLDOUT_LABELERS, rounds=rounds, labeler=number["labeler"] or ""),
        "files": lineage.file_rows(files),
        "rows": labels or rollouts,
        "config": _config_of(lineage, commit, round),
    }


def _number(lineage: Lineage, round: int, metric: str, labeler: str | None) -> Row:
    known = lineage.ask("from evaluations where round = $round order by all", round=round)
    if not known:
        rounds = lineage.ask("select distinct round from evaluations order by round")
        raise NotFound(
            f"{lineage.root}: round {round} has no evaluation; there are: {values(rounds, 'round')}"
        )
    of_metric = [row for row in known if row["metric"] == metric]
    found = [row for row in of_metric if labeler in (None, row["labeler"])]
    if not of_metric:
        names = ", ".join(sorted({row["metric"] for row in known}))
        raise NotFound(f"{lineage.root}: round {round} has no metric {metric}; there are: {names}")
    if len(found) != 1:
        names = ", ".join(sorted(row["labeler"] or "none" for row in of_metric))
        raise NotFound(
            f"{lineage.root}: {metric} of round {round} is there by labeler {names}; "
            "say which one with --labeler"
        )
    return found[0]


def _rounds_behind(lineage: Lineage, round: int, metric: str) -> list[int]:
    """The rounds whose hold-out rows a number compares: its own, and the one it is held against."""
    if metric.endswith("_from_replaced"):
        before = lineage.ask(
            "select max(evaluations.round) as round from rounds inner join evaluations "
            "on rounds.policy_revision_in = evaluations.policy_revision "
            "and evaluations.round < $round where rounds.round = $round - 1",
            round=round,
        )
        return [*(n for n in values(before, "round") if n is not None), round]
    if metric.endswith(("_change", "_ratio")) and round > 0:
        return [0, round]
    return [round]


def _config_of(lineage: Lineage, commit: Commit, round: int) -> Row:
    """The configuration of the night that measured: the row in the same commit, or round 0's."""
    measured_in = {file.round for file in commit.add if file.table == "rounds"} or {round}
    return stored_config(lineage, min(n for n in measured_in if n is not None))


_ROLLOUTS = """
select rollout_id, round, prompt_id, sample_index, policy_revision, seed
from rollouts
where purpose = 'holdout' and list_contains($rounds, round)
order by round, rollout_id
"""
_LABELS = """
select
    labels.label_id, labels.rollout_id, labels.round, labels.labeler, labels.revision,
    labels.template_sha256, labels.status, labels.score, rollouts.seed
from current_labels as labels
inner join rollouts on labels.rollout_id = rollouts.rollout_id
where list_contains($rounds, labels.round) and labels.purpose = 'holdout'
    and labels.labeler = $labeler and labels.partner_rollout_id is null
order by labels.round, labels.label_id
"""
_HOLDOUT_LABELERS = LABELERS.format(
    rows="""current_labels
where list_contains($rounds, round) and purpose = 'holdout' and labeler = $labeler
    and partner_rollout_id is null"""
)
