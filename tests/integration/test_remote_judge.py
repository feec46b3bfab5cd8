"""A judge behind a faulty endpoint, through the real commands, read with SQL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import yaml

from tests.integration import nights
from tests.labeling.chat_bodies import INPUT_TOKENS, OUTPUT_TOKENS
from tests.labeling.chat_server import ChatServer, serving

KEY = "sk-very-secret-0123456789"
PRICE = {"input": 1.0, "output": 2.0}
COST = (INPUT_TOKENS * 1 + OUTPUT_TOKENS * 2) / 1e6
FAULTS = ("429", "500", "408", "malformed", "cut", "reset")
STATUSES = {"filtered": "filtered", "length": "truncated", "400": "error", "no_usage": "ok"}


def verdict(text: str) -> str:
    """Its opinion, or a refusal where the text asks for one."""
    if "SAY NO" in text:
        return "I'm sorry, but I can't assist with that."
    return json.dumps({"rationale": "because", "score": 7})


def kind_of(text: str, attempt: int) -> str:
    """Texts name what happens to their calls: `fault:x` to the first one, `always:x` to all."""
    for kind in FAULTS:
        if f"fault:{kind}!" in text and attempt == 0:
            return kind
    return next((kind for kind in STATUSES if f"always:{kind}!" in text), "ok")


def remote_judge(server: ChatServer, **settings: object) -> dict[str, object]:
    engine = {"kind": "openai", "model": "judge-1", "base_url": server.base_url, "price": PRICE}
    return {
        "name": "api", "kind": "judge", "role": "shadow", "criterion": "helpfulness",
        "rubric": "helpfulness", "engine": engine | settings,
    }  # fmt: skip


def config_file(folder: Path, judge: dict[str, object], **more: object) -> Path:
    """The demo's configuration with one labeler more."""
    source = Path(__file__).parents[2] / "pipeline/configs/demo.yaml"
    config = yaml.safe_load(source.read_text()) | more
    config["labelers"].append(judge)
    config["warehouse"] = str(folder / "warehouse")
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def label(
    config: Path, texts: list[str], *words: str, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """`roundhouse label --input` of these completions by the remote judge."""
    folder = config.parent
    rows = [{"id": t, "prompt": f"About {t}?", "completion": t} for t in texts]
    (folder / "texts.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    command = [sys.executable, "-m", "pipeline.cli", "label", "--config", str(config)]
    command += ["--input", str(folder / "texts.jsonl"), "--out", str(folder / "labels.parquet")]
    done = subprocess.run(
        [*command, "--labeler", "api", *words],
        capture_output=True, text=True, check=False, env=nights.environment() | {"JUDGE_KEY": KEY},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_a_file_is_labelled_through_every_fault_and_each_row_tells_what_it_took(tmp_path: Path):
    texts = [f"fault:{kind}!" for kind in FAULTS]
    texts += [f"always:{kind}!" for kind in STATUSES]
    texts += ["SAY NO", *(f"plain {n}" for n in range(20))]
    with serving(ChatServer(choose=kind_of, reply=verdict)) as server:
        config = config_file(tmp_path, remote_judge(server, api_key_env="JUDGE_KEY"))
        done = label(config, texts, "--set", "beam.shard_rows=8")
    rows = duckdb.connect().execute(
        f"""
        SELECT id, status, score, retries, input_tokens, output_tokens, cached_input_tokens,
               cost_usd, price_table_version, is_usage_estimated, request_id, model, backend,
               latency_ms, queue_ms, stop_reason, error_type
        FROM '{tmp_path / "labels.parquet"}' ORDER BY line
        """
    )
    names = [column[0] for column in rows.description]
    found = {row[0]: dict(zip(names, row, strict=True)) for row in rows.fetchall()}
    assert list(found) == texts
    for kind in FAULTS:
        row = found[f"fault:{kind}!"]
        assert (row["status"], row["score"], row["retries"]) == ("ok", 0.75, 1)
    for kind, status in STATUSES.items():
        assert found[f"always:{kind}!"]["status"] == status
    assert found["SAY NO"]["status"] == "refusal"
    assert {row["status"] for name, row in found.items() if "plain" in name} == {"ok"}
    for row in found.values():
        assert (row["score"] is not None) == (row["status"] == "ok")
    good = found["plain 0"]
    assert (good["input_tokens"], good["output_tokens"]) == (INPUT_TOKENS, OUTPUT_TOKENS)
    assert (good["cached_input_tokens"], good["is_usage_estimated"]) == (40, False)
    assert (good["cost_usd"], good["price_table_version"]) == (COST, "given")
    assert (good["request_id"], good["stop_reason"]) == ("chatcmpl-1", "stop")
    assert (good["model"], good["backend"], good["retries"]) == ("served-model", "openai", 0)
    assert good["latency_ms"] > 0
    assert good["queue_ms"] >= 0
    guessed = found["always:no_usage!"]
    assert guessed["is_usage_estimated"] is True
    assert guessed["input_tokens"] > 0
    assert guessed["cost_usd"] is None
    assert found["always:400!"]["error_type"] == "invalid_request"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    assert KEY not in done.stdout + done.stderr


def test_an_endpoint_that_refuses_the_key_ends_the_command_with_what_to_do(tmp_path: Path):
    with serving(ChatServer(choose=lambda *_: "401")) as server:
        config = config_file(tmp_path, remote_judge(server, api_key_env="JUDGE_KEY"))
        done = label(config, ["a", "b"], code=1)
    assert "check the key in the environment variable JUDGE_KEY" in done.stderr
    assert KEY not in done.stdout + done.stderr
    assert not (tmp_path / "labels.parquet").exists()


def test_a_budget_ends_the_command_before_it_is_passed_and_names_the_key(tmp_path: Path):
    with serving(ChatServer(reply=verdict)) as server:
        config = config_file(tmp_path, remote_judge(server), budget_usd=0.0055)
        done = label(config, [f"plain {n}" for n in range(40)], code=1)
        assert 0 < server.answered.total() * COST <= 0.0055
    assert "budget_usd: 0.0055 USD are spent" in done.stderr
    assert "raise budget_usd" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "labels.parquet").exists()
    assert not list(tmp_path.rglob("*.sqlite*"))
