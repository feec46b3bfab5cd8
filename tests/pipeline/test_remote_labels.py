"""The label stage of a round with a remote judge: rows in SQL, a budget that ends and goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline.config import ConfigError, RunConfig, load_config
from pipeline.labels import label
from tests.labeling.chat_bodies import INPUT_TOKENS, OUTPUT_TOKENS
from tests.labeling.chat_server import ChatServer, Plan, serving
from tests.warehouse.builder import prompt, publish_rows, rollout
from warehouse.catalog import connect

ROWS = 24
COST = (INPUT_TOKENS * 1 + OUTPUT_TOKENS * 2) / 1e6  # of a call to the test's server
FAULTS = Plan(throttled=0.1, broken=0.1, malformed=0.1, retry_after="0.01")


def verdict(_: str) -> str:
    return json.dumps({"rationale": "because", "score": 7})


def config(root: Path, server: ChatServer, *sets: str, **engine: object) -> RunConfig:
    """The demo with one judge more, whose endpoint is the server."""
    source = Path(__file__).parents[2] / "pipeline/configs/demo.yaml"
    settings = yaml.safe_load(source.read_text())
    about = {"kind": "openai", "base_url": server.base_url, "model": "judge-1", "max_in_flight": 4}
    about |= {"price": {"input": 1.0, "output": 2.0}, **engine}
    settings["labelers"].append(
        {
            "name": "api", "kind": "judge", "role": "shadow", "criterion": "helpfulness",
            "rubric": "helpfulness", "engine": about,
        }
    )  # fmt: skip
    settings["warehouse"] = str(root / "warehouse")
    path = root / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return load_config(str(path), ["beam.shard_rows=4", *sets])


def stored_rollouts(root: Path) -> None:
    path = root / "warehouse"
    publish_rows(path, "prompts", prompts=[prompt(f"p{n}") for n in range(ROWS)])
    rollouts = [rollout(0, f"p{n}", purpose="train", completion=f"Answer {n}") for n in range(ROWS)]
    publish_rows(path, "round=0/train-rollouts", 0, rollouts=rollouts)


def test_a_round_is_labelled_through_faults_and_each_row_tells_what_it_took(tmp_path: Path):
    stored_rollouts(tmp_path)
    with serving(ChatServer(FAULTS, reply=verdict)) as server:
        report = label(config(tmp_path, server), 0, "train", "api")
    assert report.made == ROWS
    rows = connect(tmp_path / "warehouse").sql(
        """
        SELECT count(*), count(DISTINCT rollout_id), list_distinct(list(status)), sum(retries),
               sum(cost_usd), sum(input_tokens), count(request_id), bool_or(is_usage_estimated)
        FROM labels WHERE labeler = 'api' AND is_final
        """
    )
    rows_made, rollouts, statuses, retries, cost, tokens, ids, is_guessed = rows.fetchall()[0]
    assert (rows_made, rollouts, statuses, ids) == (ROWS, ROWS, ["ok"], ROWS)
    assert retries == sum(server.calls.values()) - ROWS > 0
    assert cost == pytest.approx(ROWS * COST)
    assert (tokens, is_guessed) == (ROWS * INPUT_TOKENS, False)
    assert set(server.answered.values()) == {1}


@pytest.mark.parametrize("of", ["run", "engine"])
def test_a_budget_ends_the_stage_before_it_is_passed_and_a_higher_one_goes_on(
    tmp_path: Path, of: str
):
    stored_rollouts(tmp_path)

    def budget(server: ChatServer, usd: float) -> RunConfig:
        if of == "run":
            return config(tmp_path, server, f"budget_usd={usd}")
        return config(tmp_path, server, budget_usd=usd)

    key = "budget_usd" if of == "run" else r"engine\.budget_usd"
    with serving(ChatServer(reply=verdict)) as server:
        # A call may cost up to 4500 millionths of a dollar, and does cost 120.
        for _ in range(2):  # the second time nothing more is sent
            with pytest.raises(Exception, match=rf"{key}: .* USD are spent.*raise {key}"):
                label(budget(server, 0.0055), 0, "train", "api")
            assert 4 <= server.answered.total() < ROWS
        sent = server.answered.total()
        assert sent * COST <= 0.0055
        assert label(budget(server, 1.0), 0, "train", "api").made == ROWS
    assert set(server.answered) == set(server.calls)
    redone = server.answered.total() - ROWS
    assert redone < 4  # what was paid for in the shard that was cut short


def test_a_round_s_budget_needs_the_price_of_every_remote_judge(tmp_path: Path):
    server = ChatServer()
    with pytest.raises(ConfigError, match=r"labelers\.api\.engine\.price: .*price table"):
        config(tmp_path, server, "budget_usd=1", price=None)
