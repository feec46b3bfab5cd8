"""What failed is tried again, what succeeded is not asked again, and nothing is rewritten."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner

from labeling.label import label_id
from pipeline import replay
from pipeline.cli import app
from pipeline.errors import ConfigError
from pipeline.stages import dead_rows, gate, labels, rewards
from pipeline.stages import entry as stages
from pipeline.stages.dead_rows import RETRIED, failed_labels, with_new_attempts
from tests.pipeline import judged
from tests.pipeline.judged import (
    Judges,
    config,
    here,
    judges,
    opened,
    sql,
    store_rollouts,
)
from tests.warehouse.builder import NOON, label, prompt, publish_rows, rollout
from training.starters.starters import starter_path
from warehouse.catalog.catalog import load_checks
from warehouse.errors import AlreadyPublished
from warehouse.keys import amendment_key, labels_key, rollouts_key
from warehouse.ledger.ledger import Ledger
from warehouse.publish import publish
from warehouse.schemas import table_from_rows
from warehouse.store import open_store


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch):
    here(monkeypatch, prepared=True)
    with judges() as made:
        yield made


def labelled(root: Path, judging: Judges, *sets: str, prompts: int = 10):
    """Round 0's train rollouts, labelled while the judges fail as they are told to."""
    settings = config(root, judging, *sets)
    store_rollouts(root, 0, "train", prompts)
    for name in ("api", "metric"):
        judged.label(settings, 0, "train", name)
    judging.asked.clear()
    return settings


def again(settings, *names: str, statuses=RETRIED, **options) -> tuple[int, list[str]]:
    said: list[str] = []
    code = replay.replay_dead(settings, (), names, statuses, said.append, **options)
    return code, said


def head(root: Path) -> int:
    return Ledger(open_store(root)).head()


def test_failed_labels_are_mended_and_the_others_are_not_asked(tmp_path: Path, judging: Judges):
    judging.failing = {"0-t3-0": "429", "0-t4-0": "500"}
    settings = labelled(tmp_path, judging)
    before = head(tmp_path)
    assert not gate.gate(settings, opened(settings), 0).is_accepted
    judging.failing = {}
    code, said = again(settings)
    assert code == 0
    assert sorted(judging.asked) == ["0-t3-0"] * 2 + ["0-t4-0"] * 2
    assert "labels by api: 2 of 10 to try again (throttled 1, error 1)" in "\n".join(said)
    assert head(tmp_path) == before + 2  # a commit per labeler
    for labeler in ("api", "metric"):
        rows = sql(tmp_path, f"from labels where labeler = '{labeler}' order by all")
        assert len(rows) == 12
        mended = [row for row in rows if row["rollout_id"] == "0-t3-0"]
        old, new = sorted(mended, key=lambda row: row["attempt"])
        assert (old["attempt"], old["is_final"], old["status"]) == (0, False, "throttled")
        assert (new["attempt"], new["is_final"], new["status"]) == (1, True, "ok")
        assert new["supersedes"] == old["label_id"]
        assert new["label_key"] == old["label_key"]
        assert new["label_id"] == label_id(new["label_key"], 1)
        assert new["score_raw"] == 4.0
    work = sql(tmp_path, f"select labeler, made from stage_throughput where version > {before}")
    assert [(row["labeler"], row["made"]) for row in work] == [("api", 2), ("metric", 2)]


def test_every_reader_finds_the_round_whole_and_as_of_the_state_before(
    tmp_path: Path, judging: Judges
):
    judging.failing = {"0-t3-0": "429"}
    settings = labelled(tmp_path, judging)
    before = head(tmp_path)
    untouched = sql(tmp_path, "from labels where status = 'ok' order by label_id")
    judging.failing = {}
    again(settings)
    assert gate.gate(settings, opened(settings), 0).is_accepted
    assert rewards.round_labels(settings, opened(settings), 0, "train").num_rows == 20
    assert judged.label(settings, 0, "train", "api").made == 0  # and is not begun anew
    coverage = "select labeler, status, rows from label_coverage order by all"
    assert [tuple(row.values()) for row in sql(tmp_path, coverage)] == [
        ("api", "ok", 10), ("metric", "ok", 10),
    ]  # fmt: skip
    assert len(sql(tmp_path, "from labels", as_of=before)) == 20
    was = sql(tmp_path, "from labels where status = 'throttled'", as_of=before)
    assert [row["is_final"] for row in was] == [True, True]
    now = sql(tmp_path, "from labels where attempt = 0 and status = 'ok' order by label_id")
    assert now == untouched
    for check in load_checks().values():
        assert sql(tmp_path, check) == []


def test_what_fails_again_keeps_its_attempts_and_the_code_is_3(tmp_path: Path, judging: Judges):
    judging.failing = {"0-t3-0": "429", "0-t4-0": "429"}
    settings = labelled(tmp_path, judging)
    judging.failing = {"0-t3-0": "500"}
    assert again(settings)[0] == 3
    assert again(settings)[0] == 3
    judging.failing = {}
    code, _ = again(settings)
    assert code == 0
    rows = sql(tmp_path, "from labels where rollout_id = '0-t3-0' and labeler = 'api'")
    rows.sort(key=lambda row: row["attempt"])
    assert [(row["attempt"], row["status"], row["is_final"]) for row in rows] == [
        (0, "throttled", False), (1, "error", False), (2, "error", False), (3, "ok", True),
    ]  # fmt: skip
    assert [row["supersedes"] for row in rows] == [None, *[row["label_id"] for row in rows[:-1]]]
    keys = [commit.key for commit in Ledger(open_store(tmp_path)).commits()]
    api = labels_key(0, "train", "api", labels.revision_of(settings, settings.labeler("api")))
    assert [key for key in keys if key.startswith(api)] == [
        api, *(f"{api}/replay-{number}" for number in (1, 2, 3)),
    ]  # fmt: skip
    assert again(settings) == (0, ["nothing is left to try again"])


def test_few_enough_failures_are_no_failure_of_the_command(tmp_path: Path, judging: Judges):
    judging.failing = {"0-t3-0": "429"}
    settings = labelled(tmp_path, judging, "dead_letters.fail_on=0.1")
    code, said = again(settings)
    assert code == 0
    assert not any("still undone" in line for line in said)


def test_a_replay_replaces_nothing_that_another_machine_has_mended_meanwhile(
    tmp_path: Path, judging: Judges, monkeypatch: pytest.MonkeyPatch
):
    judging.failing = {"0-t3-0": "429"}
    settings = labelled(tmp_path, judging)
    ledger = Ledger(open_store(tmp_path))
    (key,) = (commit.key for commit in ledger.commits() if "/api@" in commit.key)
    read = dead_rows.read_subjects

    def read_while_another_mends(*args):
        old = opened(settings).read_table("labels", keys=[key])
        files = [file.path for file in ledger.files_of([key])]
        mended, about = amendment_key(key, 1), {"amends": key}
        publish(tmp_path, mended, {"labels": old}, round=0, remove=files, meta=about)
        return read(*args)

    monkeypatch.setattr(dead_rows, "read_subjects", read_while_another_mends)
    with pytest.raises(AlreadyPublished):
        again(settings, "api")
    assert [file.path for file in ledger.files_of([key])] == [
        file.path for file in ledger.commits()[-1].add
    ]


def test_one_labeler_alone(tmp_path: Path, judging: Judges):
    judging.failing = {"0-t3-0": "429"}
    settings = labelled(tmp_path, judging)
    judging.failing = {}
    again(settings, "metric")
    failed = "select labeler from labels where is_final and status = 'throttled'"
    assert sql(tmp_path, failed) == [{"labeler": "api"}]
    with pytest.raises(ConfigError, match="--labeler nobody"):
        again(settings, "nobody")


def test_a_dry_run_asks_nobody_and_publishes_nothing(tmp_path: Path, judging: Judges):
    judging.failing = {"0-t3-0": "429"}
    settings = labelled(tmp_path, judging)
    before = head(tmp_path)
    code, said = again(settings, dry_run=True)
    assert (code, head(tmp_path), judging.asked) == (0, before, [])
    assert [line.strip() for line in said] == [
        f"round 0, train labels by {name}: 1 of 10 to try again (throttled 1)"
        for name in ("api", "metric")
    ]


def test_a_rewarded_round_is_closed(tmp_path: Path, judging: Judges):
    judging.failing = {"0-t3-0": "429"}
    settings = labelled(tmp_path, judging)
    publish_rows(tmp_path, "round=0/rewards", 0, rewards=[])
    before = head(tmp_path)
    said: list[str] = []
    assert replay.replay_dead(settings, [0], (), RETRIED, said.append) == 0
    assert said[0].strip() == "round 0, train: round=0/rewards is published; its labels stand"
    assert (head(tmp_path), judging.asked) == (before, [])
    with pytest.raises(ConfigError, match=r"--round 7: .* has no rollouts of it"):
        replay.replay_dead(settings, [7], (), RETRIED, said.append)


def test_another_status_is_asked_for_by_name_and_gets_a_new_answer(tmp_path: Path, judging: Judges):
    judging.grade = lambda number: 99 if number == 3 else 5
    settings = labelled(tmp_path, judging)
    judging.grade = lambda _: 5
    assert again(settings) == (0, ["nothing is left to try again"])
    assert again(settings, statuses=["out_of_range"])[0] == 0
    assert set(judging.asked) == {"0-t3-0"}
    assert sql(tmp_path, "select distinct status from labels where is_final") == [{"status": "ok"}]
    for wrong in ("ok", "surprise"):
        with pytest.raises(ConfigError, match=f"--status {wrong}: expected what failed"):
            again(settings, statuses=[wrong])


def test_rollouts_that_came_later_are_labelled_beside_the_others(tmp_path: Path, judging: Judges):
    settings = labelled(tmp_path, judging)
    late = rollout(0, "t10", purpose="train")
    tables = {"rollouts": table_from_rows("rollouts", [late])}
    tables["prompts"] = table_from_rows("prompts", [prompt("t10", purpose="train")])
    key = rollouts_key(0, "train")
    publish(tmp_path, f"{key}/replay-1", tables, round=0, meta={"amends": key})
    code, said = again(settings)
    assert code == 0
    assert "labels by api: 1 of 11 to try again (unlabelled 1)" in "\n".join(said)
    assert judging.asked == ["0-t10-0"] * 2
    assert rewards.round_labels(settings, opened(settings), 0, "train").num_rows == 22


def test_the_command_shows_what_failed(tmp_path: Path, judging: Judges):
    judging.failing = {"0-t3-0": "429"}
    settings = labelled(tmp_path, judging)
    file = tmp_path / "night.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    result = CliRunner().invoke(app, ["replay-dead", str(file), "--round", "0", "--dry-run"])
    assert (result.exit_code, result.output.count("to try again")) == (0, 2)
    result = CliRunner().invoke(app, ["replay-dead", str(file), "--labeler", "api"])
    assert result.exit_code == 3


# ----- prompts that the engine refused


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROUNDHOUSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return starter_path("starter-policy", budget="tiny")


def test_a_refused_prompt_is_sampled_once_it_fits_and_labelled_then(
    tmp_path: Path, judging: Judges, policy: Path
):
    texts = ["How do I plant a tree?", "Why? " * 20, ""]
    prompts = [
        prompt(f"p{i}", purpose="train", messages=json.dumps([{"role": "user", "content": text}]))
        for i, text in enumerate(texts)
    ]
    publish_rows(tmp_path, "prompts", prompts=prompts)
    sampling = "rollouts={engine: transformers, prompts: 3, samples: 2, max_tokens: 8, "
    narrow, wide = (
        config(tmp_path, judging, f"policy.model={policy}", f"{sampling}max_model_len: {length}}}")
        for length in (40, 200)
    )
    stages.generate(narrow, rollouts_key(0, "train"), 0, "train")
    for name in ("api", "metric"):
        judged.label(narrow, 0, "train", name)
    before = sql(tmp_path, "from rollouts order by rollout_id")
    assert len(before) == 2
    code, said = again(wide)
    assert code == 3  # the empty prompt stays refused
    assert "round 0, train rollouts: 2 of 3 to try again (PromptFailed 1" in "\n".join(said)
    rollouts = sql(tmp_path, "from rollouts order by rollout_id")
    assert [row["rollout_id"] for row in rollouts] == ["0-p0-0", "0-p0-1", "0-p1-0", "0-p1-1"]
    assert rollouts[:2] == before
    letters = sql(tmp_path, "select row_id, attempt from dead_letters order by all")
    assert [(row["row_id"], row["attempt"]) for row in letters] == [("p1", 1), ("p2", 1), ("p2", 2)]
    assert rewards.round_labels(wide, opened(wide), 0, "train").num_rows == 8
    for check in load_checks().values():
        assert sql(tmp_path, check) == []


# ----- rows


def table(*rows: dict[str, object]) -> pa.Table:
    return table_from_rows("labels", list(rows))


def numbered(key: str, attempt: int, status: str, *, final: bool, **columns: object):
    row = label(rollout(0, "p1"), 0.5 if status == "ok" else None, attempt=attempt)
    return row | {
        "label_key": key, "label_id": label_id(key, attempt), "status": status,
        "is_final": final, "labeled_at": NOON,
    } | columns  # fmt: skip


def test_a_repair_goes_on_counting_and_names_what_it_replaces():
    first = label_id("k", 0)
    old = table(numbered("k", 0, "error", final=True))
    fresh = table(
        numbered("k", 0, "malformed", final=False),
        numbered("k", 1, "ok", final=True, supersedes=first),
    )
    rows = with_new_attempts(old, fresh, failed_labels(old, RETRIED), set()).to_pylist()
    assert [(row["attempt"], row["status"], row["is_final"]) for row in rows] == [
        (0, "error", False), (1, "malformed", False), (2, "ok", True),
    ]  # fmt: skip
    assert [row["supersedes"] for row in rows] == [None, first, label_id("k", 1)]
    assert [row["label_id"] for row in rows] == [label_id("k", i) for i in range(3)]


def test_samples_keep_their_order_and_the_summary_replaces_the_label():
    old = table(*(numbered("k", i, "throttled", final=i == 2) for i in range(3)))
    fresh = table(
        numbered("k", 0, "ok", final=False, sample_index=0),
        numbered("k", 1, "ok", final=False, sample_index=1),
        numbered("k", 2, "ok", final=True),
    )
    rows = with_new_attempts(old, fresh, failed_labels(old, RETRIED), set()).to_pylist()
    assert [row["attempt"] for row in rows] == list(range(6))
    assert [row["is_final"] for row in rows] == [False] * 5 + [True]
    assert [row["supersedes"] for row in rows] == [None] * 5 + [label_id("k", 2)]


def test_a_label_that_had_not_failed_stands():
    good = numbered("g", 0, "ok", final=True)
    old = table(good, numbered("k", 0, "timeout", final=True))
    fresh = table(numbered("g", 0, "ok", final=True), numbered("k", 0, "ok", final=True))
    rows = with_new_attempts(old, fresh, failed_labels(old, RETRIED), set()).to_pylist()
    kept = [row for row in rows if row["label_key"] == "g"]
    assert [(row["attempt"], row["is_final"]) for row in kept] == [(0, True)]
    assert len(rows) == 3


def test_a_failed_label_without_a_new_row_stays_as_it_was():
    old = table(numbered("k", 0, "timeout", final=True))
    nothing = old.slice(0, 0)
    assert with_new_attempts(old, nothing, failed_labels(old, RETRIED), set()).equals(old)
