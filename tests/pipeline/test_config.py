"""Every mistake in a configuration is named by file and key."""

from __future__ import annotations

import pytest

from pipeline.config import RunConfig
from pipeline.configs.loading import load_config, shipped_configs
from pipeline.errors import ConfigError
from warehouse.files import sha256_of


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_shipped_configurations_are_valid(name: str):
    assert load_config(name).labelers


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.learing_rate=1e-4",
            "training.learing_rate: unknown key, did you mean learning_rate? there are: ada",
        ),
        ("labelers.metric.rubrik=x", "labelers.metric.rubrik: unknown key; there are: activation"),
        ("labelers.helpful-judge.rubrik=x", "labelers.helpful-judge.rubrik: unknown key, did you"),
        ("labelers.helpful-judge.engine={kind: vllm, modle: x}", "engine.modle: unknown key, did"),
        ("reward.terms.toxicity={wieght: 1}", "reward.terms.toxicity.wieght: unknown key, did"),
        ("prompt={}", "demo.yaml: prompt: unknown key, did you mean prompts? there are: beam,"),
        ("rollouts.temperature=0.7", "rollouts: {'temperature': 0.7} samples from another"),
        ("rollouts.top_p=0.9", "could not be corrected in PPO"),
        ("beam.runner=DirectRunner", "tries to download"),
        ("prompts.holdout=1.5", "prompts.holdout: Input should be less than 1"),
        ("prompts.source=jsonl", "needs prompts.path"),
        ("reward.terms.metric={weight: -1}", "has role metric; what trains the policy must not"),
        ("reward.terms.nobody={weight: -1}", "no labeler has this name"),
        ("labelers.metric.role=shadow", "none has role 'metric'"),
        ("labelers.metric.model=starter-toxicity", "the same model as reward labeler toxicity"),
        ("labelers.metric.name=toxicity", "stand twice"),
        ("labelers.nobody.model=x", "there is no nobody"),
        ("seed", "expected key=value"),
        ("training={kl_target: 6, kl_budget: 3}", "kl_budget 3 is below kl_target 6: the contro"),
        ("policy.adapter={rank: 8}", "policy.adapter.rank: unknown key; there are: alpha, r, tar"),
        ("preference_training.bet=1", "preference_training.bet: unknown key, did you mean beta?"),
        ("preference_training.batch_size=12", "12 is not a multiple of micro_batch_size 8"),
    ],
)
def test_a_wrong_key_is_named(override: str, message: str):
    with pytest.raises(ConfigError) as caught:
        load_config("demo", [override])
    assert message in str(caught.value)


def test_a_baseline_of_siblings_needs_siblings():
    with pytest.raises(ConfigError, match=r"advantage rloo .*rollouts.samples must be at least 2"):
        load_config("demo", ["training.advantage=rloo", "rollouts.samples=1"])
    assert load_config("demo", ["training.advantage=rloo"]).training.advantage == "rloo"


def test_an_error_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("warehouse: x\nrounds: three\n")
    with pytest.raises(ConfigError, match=f"{path}: rounds: Input should be a valid integer"):
        load_config(str(path))
    path.write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(str(path))
    path.write_text("- a\n")
    with pytest.raises(ConfigError, match="expected keys and values"):
        load_config(str(path))


def test_an_unknown_name_lists_the_shipped():
    with pytest.raises(ConfigError, match="neither a file nor one of the shipped: demo"):
        load_config("demon")


def test_overrides_beat_the_file_and_reach_labelers_by_name():
    config = load_config(
        "demo", ["training.learning_rate=3e-6", "labelers.metric.token_budget=512"]
    )
    assert config.training.learning_rate == 3e-6
    assert config.labeler("metric").token_budget == 512
    assert config.metric == "metric"


def test_the_digest_ignores_key_order():
    assert sha256_of({"a": 1, "b": [2]}) == sha256_of({"b": [2], "a": 1})
    assert sha256_of({"a": 1}) != sha256_of({"a": 2})


def test_a_budget_needs_the_price_of_every_remote_judge():
    engine = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m-1"}
    labelers = load_config("demo").model_dump(mode="json", exclude_none=True)["labelers"]
    judge = {"name": "api", "kind": "judge", "role": "shadow", "criterion": "toxicity"}

    def load(**more: object) -> RunConfig:
        asked = judge | {"rubric": "toxicity", "engine": engine | more}
        return load_config("demo", ["budget_usd=2.5", f"labelers={[*labelers, asked]}"])

    with pytest.raises(ConfigError, match=r"labelers\.api\.engine\.price: m-1 is not in the price"):
        load()
    assert load(price={"input": 1, "output": 2}).budget_usd == 2.5


@pytest.mark.parametrize("budget", ["0", "-1", ".inf", ".nan"])
def test_a_budget_is_a_sum_that_can_be_spent(budget: str):
    with pytest.raises(ConfigError, match="budget_usd"):
        load_config("demo", [f"budget_usd={budget}"])
