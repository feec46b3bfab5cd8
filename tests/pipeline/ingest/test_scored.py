"""Scored rollouts of others come in once, with honest scores; they train by text, never by PPO."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import ConfigError
from pipeline.ingest.importer import import_files
from pipeline.ingest.meaning import ImportOptions, parse_options
from pipeline.ingest.trl_completions import read_completions
from tests.pipeline.ingest.scored_files import (
    completions,
    digest,
    heads,
    lines,
    questions,
    sampled,
    turn,
)
from tests.pipeline.judged import sql
from tests.warehouse.builder import label, prompt, publish_rows, reward, rollout, round_row
from training.errors import EmptyRound, TrainingError
from training.ppo.config import TrainingConfig
from training.ppo.dataset import trainable_rows
from training.preference.export import export_rows
from training.preference.rows import dpo_rows, kto_rows, sft_rows
from training.preference.selection import Selection
from warehouse.report.report import write_report

TRL = ImportOptions("trl", "trl", holdout=0.5)


@pytest.fixture
def grpo_file(tmp_path: Path) -> Path:
    """Two train prompts with two samples each, and one held out."""
    one, two = questions("train", 2)
    (held,) = questions("holdout", 1)
    return completions(
        tmp_path / "completions_00005.parquet",
        [
            sampled(one, "Good.", kind=0.75, fit=3.0),
            sampled(one, "Bad.", kind=0.25, fit=-1.0),
            sampled(two, "Fine.", kind=0.5, fit=2.0),
            sampled(two, "Poor.", kind=None, fit=1.0),
            sampled(held, "Held.", kind=1.0, fit=0.5),
        ],
    )


def test_trl_rows_become_rollouts_labels_and_rewards(tmp_path, grpo_file):
    result = import_files(tmp_path / "w", [grpo_file], TRL)
    (done,) = result.files
    assert (done.train, done.holdout, done.labels, done.duplicates) == (4, 1, 9, 0)
    rollouts = sql(tmp_path / "w", "from rollouts order by completion")
    assert [row["completion"] for row in rollouts] == ["Bad.", "Fine.", "Good.", "Held.", "Poor."]
    assert {row["policy_revision"] for row in rollouts} == {"trl/step-5"}
    assert {row["engine"] for row in rollouts} == {"import/trl"}
    for column in ("round", "prompt_ids", "completion_ids", "behavior_logprobs"):
        assert {row[column] for row in rollouts} == {None}
    assert [r["purpose"] for r in rollouts if r["completion"] == "Held."] == ["holdout"]
    rewards = sql(
        tmp_path / "w",
        "select completion, reward, label_count from rewards join rollouts using (rollout_id) "
        "order by completion",
    )
    # TRL adds what was scored; the sample without `kind` has `fit` alone.
    assert [(r["completion"], r["reward"], r["label_count"]) for r in rewards] == [
        ("Bad.", -0.75, 2),
        ("Fine.", 2.5, 2),
        ("Good.", 3.75, 2),
        ("Held.", 1.5, 2),
        ("Poor.", 1.0, 1),
    ]


def test_a_column_that_leaves_0_to_1_has_raw_scores_alone(tmp_path, grpo_file):
    result = import_files(tmp_path / "w", [grpo_file], TRL)
    assert result.unscaled == {"fit": (-1.0, 3.0)}
    by_labeler = sql(
        tmp_path / "w",
        "select labeler, status, count(*) as n, count(score) as scored, min(score_raw) as least "
        "from labels group by all order by labeler",
    )
    assert by_labeler == [
        {"labeler": "trl/fit", "status": "out_of_range", "n": 5, "scored": 0, "least": -1.0},
        {"labeler": "trl/kind", "status": "ok", "n": 4, "scored": 4, "least": 0.25},
    ]


def test_a_scale_maps_raw_scores_and_may_fall(tmp_path, grpo_file):
    options = parse_options(
        "trl", "run-a", 0.5, scales=["fit=3,-1"], criteria=["fit=toxicity"], weights=["kind=0"]
    )
    assert import_files(tmp_path / "w", [grpo_file], options).unscaled == {}
    scores = sql(
        tmp_path / "w",
        "select completion, score, score_raw, score_scale, criterion, reward from labels "
        "join rollouts using (rollout_id) join rewards using (rollout_id) "
        "where labeler = 'run-a/fit' order by completion",
    )
    assert [row["score"] for row in scores] == [1.0, 0.25, 0.0, 0.625, 0.5]
    assert {row["criterion"] for row in scores} == {"toxicity"}
    assert {row["score_scale"] for row in scores} == {"3 to -1"}
    assert [row["reward"] for row in scores] == [row["score_raw"] for row in scores]


def test_a_raw_score_outside_of_its_scale_is_out_of_range_and_infinity_is_no_number(tmp_path):
    one, two = questions("train", 2)
    path = completions(
        tmp_path / "c.parquet", [sampled(one, "A.", fit=5.0), sampled(two, "B.", fit=math.inf)]
    )
    import_files(tmp_path / "w", [path], parse_options("trl", None, 0.5, scales=["fit=0,4"]))
    rows = sql(
        tmp_path / "w",
        "select completion, status, score, score_raw, is_eligible, reward from labels join rollouts"
        " using (rollout_id) join rewards using (rollout_id) order by completion",
    )
    assert [tuple(row.values()) for row in rows] == [
        ("A.", "out_of_range", None, 5.0, True, 5.0),
        ("B.", "non_finite", None, None, False, None),
    ]


def test_the_same_file_again_does_nothing_and_a_shared_sample_comes_in_once(tmp_path, grpo_file):
    root = tmp_path / "w"
    import_files(root, [grpo_file], TRL)
    (again,) = import_files(root, [grpo_file], TRL).files
    assert again.is_known
    # TRL writes its last generation batch at every log: the rows again, at another step.
    frame = pd.read_parquet(grpo_file)
    frame["step"] = 6
    later = tmp_path / "completions_00006.parquet"
    frame.to_parquet(later)
    (third,) = import_files(root, [later], TRL).files
    assert (third.train, third.holdout, third.labels, third.duplicates) == (0, 0, 0, 5)
    assert sql(root, "select count(*) as n from rollouts") == [{"n": 5}]
    assert len(heads(root)) == 2


def test_two_equal_samples_of_one_file_are_two_rollouts(tmp_path):
    (one,) = questions("train", 1)
    path = completions(tmp_path / "c.parquet", [sampled(one, "Same.", fit=0.5)] * 2)
    import_files(tmp_path / "w", [path], TRL)
    assert sql(tmp_path / "w", "select sample_index from rollouts order by 1") == [
        {"sample_index": 0},
        {"sample_index": 1},
    ]


def test_other_options_need_another_source(tmp_path, grpo_file):
    root = tmp_path / "w"
    import_files(root, [grpo_file], TRL)
    with pytest.raises(ConfigError, match="name another --source"):
        import_files(root, [grpo_file], parse_options("trl", None, 0.5, scales=["fit=-1,3"]))
    scaled = parse_options("trl", "scaled", 0.5, scales=["fit=-1,3"])
    (done,) = import_files(root, [grpo_file], scaled).files
    assert done.train == 4
    assert sql(root, "select count(*) as n from current_rewards") == [{"n": 10}]


def test_best_against_worst_of_an_imported_source(tmp_path, grpo_file):
    root = tmp_path / "w"
    import_files(root, [grpo_file], TRL)
    pairs = dpo_rows(root, Selection(imported="trl")).to_pylist()
    assert sorted(
        (p["chosen"][0]["content"], p["rejected"][0]["content"], p["margin"]) for p in pairs
    ) == [("Fine.", "Poor.", 1.5), ("Good.", "Bad.", 4.5)]
    assert {p["prompt_ids"] for p in pairs} == {None}
    best = sft_rows(root, Selection(imported="trl"))
    assert "input_ids" not in best.column_names
    assert sorted(row["completion"][0]["content"] for row in best.to_pylist()) == ["Fine.", "Good."]
    assert kto_rows(root, Selection(imported="trl")).num_rows == 4


def test_the_rounds_of_a_warehouse_and_an_import_keep_apart(tmp_path, grpo_file):
    root = one_night(tmp_path / "w")
    views = [
        "toxicity_by_round",
        "worst_completions",
        "before_after",
        "round_costs",
        "label_coverage",
        "preference_candidates",
    ]
    before = {view: sql(root, f"from {view}") for view in views}
    pairs = dpo_rows(root, Selection()).to_pylist()
    options = parse_options("trl", None, 0.5, criteria=["kind=toxicity"])
    import_files(root, [grpo_file], options)
    assert {view: sql(root, f"from {view}") for view in views} == before
    assert dpo_rows(root, Selection()).to_pylist() == pairs
    assert len(before["toxicity_by_round"]) == len(pairs) == 1
    shown = sql(root, "select labeler, purpose, completions, scored from imported_scores")
    assert shown == [
        {"labeler": "trl/fit", "purpose": "holdout", "completions": 1, "scored": 0},
        {"labeler": "trl/kind", "purpose": "holdout", "completions": 1, "scored": 1},
        {"labeler": "trl/fit", "purpose": "train", "completions": 4, "scored": 0},
        {"labeler": "trl/kind", "purpose": "train", "completions": 3, "scored": 3},
    ]
    assert "trl/kind" not in write_report(root, tmp_path / "report.html").read_text()


def one_night(root: Path) -> Path:
    """A round with one hold-out completion and two scored train ones, split by hash."""
    names = {side: digest(questions(side, 4)[3]) for side in ("holdout", "train")}
    prompts = [prompt(side, purpose=side, first_turn_sha256=names[side]) for side in names]
    held = rollout(0, "holdout")
    scored = [rollout(0, "train", k, purpose="train") for k in (0, 1)]
    publish_rows(root, "prompts", prompts=prompts)
    publish_rows(
        root,
        "round=0",
        0,
        rollouts=[held, *scored],
        labels=[label(held, 0.9)],
        rewards=[reward(row, float(k)) for k, row in enumerate(scored)],
        rounds=[round_row(0)],
    )
    return root


def test_no_imported_row_that_begins_as_a_holdout_prompt_trains(tmp_path, grpo_file):
    root = tmp_path / "w"
    import_files(root, [grpo_file], TRL)
    first = digest(questions("train", 1)[0])
    publish_rows(root, "prompts", prompts=[prompt("p1", first_turn_sha256=first)])
    pairs = dpo_rows(root, Selection(imported="trl")).to_pylist()
    assert [p["chosen"][0]["content"] for p in pairs] == ["Fine."]


def test_ppo_refuses_an_import_and_says_why(tmp_path, grpo_file):
    root = tmp_path / "w"
    import_files(root, [grpo_file], TRL)
    with pytest.raises(EmptyRound, match=r"5 imported completions .* text only.*train-dpo"):
        trainable_rows(
            root, 0, recipe_sha256=None, config=TrainingConfig(), policy_revision="policy-0"
        )


def test_an_unknown_source_is_named_with_those_that_are_there(tmp_path, grpo_file):
    root = tmp_path / "w"
    import_files(root, [grpo_file], TRL)
    for rows in (dpo_rows, sft_rows):
        with pytest.raises(TrainingError, match=r"'openai'.*there are: trl"):
            rows(root, Selection(imported="openai"))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"completion": turn("assistant", [{"type": "image"}])}, "type 'image'"),
        ({"completion": turn("tool", "4")}, "call of a tool"),
        ({"completion": turn("assistant", "A.") * 2}, "one message of the assistant"),
        ({"completion": turn("assistant", "  ")}, "completion is empty"),
        ({"prompt": turn("assistant", "Hm?")}, "begins and ends with a human turn"),
        ({"prompt": []}, "no messages"),
    ],
)
def test_a_bad_row_of_trl_costs_only_itself(tmp_path, row, why):
    (one,) = questions("train", 1)
    rows = [sampled(one, "Good.", fit=0.5), sampled(one, "x", fit=0.5) | row]
    path = completions(tmp_path / "c.parquet", [rows[0]])
    (done,) = import_files(tmp_path / "w", [path], TRL).files
    assert done.problems == ()
    bad = completions(tmp_path / "bad.parquet", rows[1:])
    content = read_completions(bad, "trl")
    assert content.rollouts == []
    assert why in content.problems[0]
    assert content.problems[0].startswith("bad.parquet:1: ")


def test_plain_texts_and_parts_of_text_are_read_as_well(tmp_path):
    rows = [
        {"step": 1, "prompt": "Why?", "completion": "Because.", "fit": 0.5},
        {"step": 1, "prompt": "How?", "completion": "So.", "fit": 0.25},
    ]
    content = read_completions(completions(tmp_path / "a.parquet", rows), "trl")
    assert [r.messages for r in content.rollouts] == [turn("user", "Why?"), turn("user", "How?")]
    parts = [{"type": "text", "text": "Be"}, {"type": "text", "text": "cause."}]
    row = {"prompt": turn("user", "Why?"), "completion": turn("assistant", parts)}
    (found,) = read_completions(completions(tmp_path / "b.parquet", [row]), "trl").rollouts
    assert (found.completion, found.policy, found.scores) == ("Because.", "trl", {})


def test_rewards_can_be_named_where_numbers_were_logged_beside_them(tmp_path):
    path = completions(
        tmp_path / "c.parquet", [sampled("Why?", "So.", fit=0.5, seconds=12.5, note="x")]
    )
    assert read_completions(path, "trl").rollouts[0].scores == {"fit": 0.5, "seconds": 12.5}
    assert read_completions(path, "trl", ["fit"]).rollouts[0].scores == {"fit": 0.5}
    with pytest.raises(ConfigError, match=r"--reward note.*no such column"):
        read_completions(path, "trl", ["note"])


def test_a_file_that_is_no_completions_file_is_refused(tmp_path):
    other = completions(tmp_path / "other.parquet", [{"question": "Why?"}])
    with pytest.raises(ConfigError, match="no column completion or prompt"):
        import_files(tmp_path / "w", [other], TRL)
    text = lines(tmp_path / "text.parquet", b"no Parquet at all")
    with pytest.raises(ConfigError, match="not a readable Parquet file"):
        import_files(tmp_path / "w", [text], TRL)
    with pytest.raises(ConfigError, match="no such file"):
        import_files(tmp_path / "w", [tmp_path / "absent"], TRL)
    assert heads(tmp_path / "w") == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"scales": ["fit=1"]}, "two numbers"),
        ({"scales": ["fit=1,1"]}, "must differ"),
        ({"scales": ["fit=0,inf"]}, "not a finite number"),
        ({"scales": ["0,1"]}, "NAME=VALUE"),
        ({"weights": ["fit=x"]}, "not a finite number"),
        ({"criteria": ["toxicity"]}, "NAME=VALUE"),
        ({"source": "My Run"}, "lower-case letters"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(options, why):
    keys = {"source": "trl"} | options
    with pytest.raises(ConfigError, match=why):
        parse_options("trl", keys.pop("source"), 0.2, **keys)


def test_an_option_about_a_score_that_is_not_there_is_refused(tmp_path, grpo_file):
    options = parse_options("trl", None, 0.5, criteria=["fitt=toxicity"])
    with pytest.raises(ConfigError, match=r"--criterion fitt: .* there: fit, kind"):
        import_files(tmp_path / "w", [grpo_file], options)
    assert heads(tmp_path / "w") == []


def test_the_command_line_imports_and_exports(tmp_path, grpo_file):
    root, out = str(tmp_path / "w"), tmp_path / "pairs.jsonl"
    arguments = ["import", root, str(grpo_file), "--format", "trl", "--holdout", "0.5"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "4 train and 1 hold-out completions, 9 labels, 0 pairs as import/trl/" in said
    assert "score fit runs from -1 to 3" in said
    assert "PPO cannot train on them" in said
    result = CliRunner().invoke(
        app, ["export", root, "dpo", "--imported", "trl", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["chosen"][0]["content"] for row in rows} == {"Good.", "Fine."}
    assert set(rows[0]) >= {"prompt", "chosen", "rejected"}
    assert not set(rows[0]) & {"prompt_ids", "ref_chosen_logps"}


def test_every_kind_of_export_reaches_an_import(tmp_path, grpo_file):
    import_files(tmp_path / "w", [grpo_file], TRL)
    counts = {
        kind: export_rows(
            tmp_path / "w", kind, tmp_path / f"{kind}.parquet", Selection(imported="trl")
        ).num_rows
        for kind in ("dpo", "kto", "sft", "reward")
    }
    assert counts == {"dpo": 2, "kto": 4, "sft": 2, "reward": 2}
