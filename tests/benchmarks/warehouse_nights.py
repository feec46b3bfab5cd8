"""Nights made up for the warehouse benchmarks: rows in the shape a night really publishes.

A night is six commits: rollouts and labels of the hold-out and of the train prompts, the
evaluation, and what trained. A labeler's labels of one purpose are a file of their own, as the
pipeline writes them, so five labelers leave ten label files a night. Of the completions 28 % are
hold-out ones (the demo's 800 of 2,848), and two of five labelers measure toxicity. Ids are as long
and as random as real ones, in real files they are most of the bytes; what a classifier leaves NULL
is NULL. Rows are made by column from a seed. Not here: what is measured (warehouse.py).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.catalog.catalog import open_connection
from warehouse.incoming.derived import prompt_sums
from warehouse.ledger.data_files import put_rows
from warehouse.ledger.ledger import Ledger
from warehouse.schemas import TABLES, conform, table_from_rows
from warehouse.store import open_store

SAMPLES = 4
LAST_STAGE = "rewards"
HOLDOUT_SHARE = 800 / 2848
_STARTED = datetime(2026, 1, 1, 2, tzinfo=UTC)
_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), dtype="<u2")
_TEXT = (
    "the policy answers politely and stays with the question that was asked although one remark "
    "about the neighbour is rude enough to be marked down by any careful reader of this text"
)


@dataclass(frozen=True)
class Labeler:
    """One labeler of the made-up nights."""

    name: str
    criterion: str
    role: str
    kind: str = "classifier"

    @property
    def revision(self) -> str:
        """16 hex digits."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:16]


LABELERS = (
    Labeler("helpful-judge", "helpfulness", "reward", "judge"),
    Labeler("honest-judge", "honesty", "reward", "judge"),
    Labeler("metric", "toxicity", "metric"),
    Labeler("politeness", "politeness", "reward"),
    Labeler("toxicity", "toxicity", "reward"),
)


@dataclass(frozen=True)
class Nights:
    """How many nights, labels a night, words of a judge's rationale, and tokens of a completion.

    0 words make no rationale (and so a hundred million labels 10 GB), 0 tokens text-only rollouts.
    """

    rounds: int
    labels: int
    words: int = 30
    tokens: int = 0

    @property
    def prompts(self) -> dict[str, int]:
        """Prompts a night by purpose."""
        prompts = self.labels // len(LABELERS) // SAMPLES
        holdout = max(2, round(prompts * HOLDOUT_SHARE))
        return {"holdout": holdout, "train": max(2, prompts - holdout)}


def made_up_nights(root: Path, nights: Nights) -> Path:
    """A warehouse of these nights at `root`; what is there of it already is not made again."""
    root.mkdir(parents=True, exist_ok=True)
    about = root.with_suffix(".json")
    wanted = json.dumps(asdict(nights))
    if about.exists() and about.read_text() != wanted:
        raise ValueError(f"{root}: there are other nights ({about.read_text()}); delete them first")
    about.write_text(wanted)
    append_nights(root, nights, 0, nights.rounds)
    return root


def append_nights(root: Path, nights: Nights, first: int, last: int) -> None:
    """Writes and commits the nights `first` up to `last` (exclusive) of the warehouse `root`.

    Without publish's checks: the rows are sorted and right by construction.
    """
    store = open_store(root)
    ledger = Ledger(store)
    there = {commit.key for commit in ledger.commits()}
    for number in range(first, last):
        if f"round={number}/{LAST_STAGE}" in there:
            continue
        for stage, parts in night_commits(number, nights).items():
            key = f"round={number}/{stage}"
            if key not in there:
                files = [file for name, rows in parts for file in put_rows(store, name, rows)]
                ledger.append(key, files, code_version="benchmark")


def night_commits(number: int, nights: Nights) -> dict[str, list[tuple[str, pa.Table]]]:
    """The six commits of night `number`: key -> tables with their rows, one file each."""
    commits: dict[str, list[tuple[str, pa.Table]]] = {}
    for purpose, stage in (("holdout", "eval"), ("train", "train")):
        rollouts = rollout_rows(number, purpose, nights)
        labels = [label_rows(rollouts, labeler, nights) for labeler in LABELERS]
        commits[f"{stage}-rollouts"] = [("rollouts", rollouts)]
        commits[f"{stage}-labels"] = [("labels", rows) for rows in labels]
        if purpose == "holdout":
            commits[f"{stage}-labels"] += [("prompt_sums", sums_of(rows)) for rows in labels]
            commits["evaluation"] = [("evaluations", evaluation_rows(number, labels))]
        else:
            commits["rewards"] = [("rewards", reward_rows(number, rollouts, labels))]
    return commits


def sums_of(labels: pa.Table) -> pa.Table:
    """The sums that publish stores beside these labels, sorted."""
    con = open_connection()
    con.register("labels", labels)
    order = [(name, "ascending") for name in TABLES["prompt_sums"].sort]
    return prompt_sums(con).sort_by(order)


def evaluation_rows(number: int, labels: list[pa.Table]) -> pa.Table:
    """The mean score of each labeler of the night."""
    rows: list[dict[str, object]] = [
        {
            "round": number,
            "policy_revision": _policy(number),
            "labeler": labeler.name,
            "metric": f"{labeler.criterion}_mean",
            "value": pc.mean(of["score"]).as_py(),
            "unit": "mean score",
            "method": "mean",
            "prompts": of.num_rows // SAMPLES,
            "completions": of.num_rows,
            "samples_per_prompt": SAMPLES,
        }
        for labeler, of in zip(LABELERS, labels, strict=True)
    ]
    return table_from_rows("evaluations", rows)


def reward_rows(number: int, rollouts: pa.Table, labels: list[pa.Table]) -> pa.Table:
    """One reward per rollout, out of two labels; without its terms."""
    count = rollouts.num_rows
    used = [labels[0]["label_id"], labels[-1]["label_id"]]
    pairs = pa.chunked_array([*used[0].chunks, *used[1].chunks]).combine_chunks()
    order = pa.array(np.arange(2 * count).reshape(2, count).T.ravel())
    offsets = pa.array(np.arange(0, 2 * count + 1, 2, dtype=np.int32))
    columns = {
        "rollout_id": rollouts["rollout_id"],
        "prompt_id": rollouts["prompt_id"],
        "label_ids": pa.ListArray.from_arrays(offsets, pairs.take(order)),
        "terms": pa.array([[]] * count, TABLES["rewards"].schema.field("terms").type),
        "reward": pa.array(np.random.default_rng(number).normal(0, 1, count).astype(np.float32)),
    }
    constant = {
        "recipe": "weighted",
        "recipe_sha256": "0" * 64,
        "round": number,
        "purpose": "train",
        "is_eligible": True,
        "label_count": 2,
    }
    return _with_constants("rewards", columns, constant, count)


def rollout_rows(number: int, purpose: str, nights: Nights) -> pa.Table:
    """The rollouts of one night and purpose, sorted; the hold-out prompts are always the same."""
    rng = np.random.default_rng([number, purpose == "train"])
    prompts = nights.prompts[purpose]
    seed = 0 if purpose == "holdout" else number + 1
    ids = np.sort(np.random.default_rng([seed, prompts]).integers(0, 2**63, prompts, np.int64))
    prompt_hex = _hex(np.repeat(ids, SAMPLES).astype(">i8").view(np.uint8).reshape(-1, 8))
    index = np.tile(np.arange(SAMPLES, dtype=np.int16), prompts)
    count = len(index)
    rollout_id = np.concatenate(
        [
            np.tile(np.frombuffer(f"{number}-".encode(), np.uint8), (count, 1)),
            prompt_hex,
            np.full((count, 1), ord("-"), np.uint8),
            (index[:, None] + ord("0")).astype(np.uint8),
        ],
        axis=1,
    )
    constant = {
        "round": number,
        "purpose": purpose,
        "policy_revision": _policy(number),
        "finish_reason": "stop",
        "temperature": 1.0,
        "engine": "vllm",
        "engine_version": "0.32.0",
        "generated_at": _STARTED + timedelta(days=number),
    }
    columns = {
        "rollout_id": _strings(rollout_id),
        "prompt_id": _strings(prompt_hex),
        "sample_index": pa.array(index),
        "completion": _sentences(rng, count, 8),
        "completion_sha256": _strings(_random_hex(rng, count, 64)),
        "seed": pa.array(rng.integers(0, 2**63, count, np.int64)),
    }
    if nights.tokens:
        columns |= _token_columns(rng, count, nights.tokens)
    return _with_constants("rollouts", columns, constant, count)


def _token_columns(rng: np.random.Generator, count: int, tokens: int) -> dict[str, pa.Array]:
    """Prompts of 20 tokens, completions of `tokens` on average, ids by Zipf's law."""
    prompt = pa.array(np.arange(0, 20 * count + 1, 20, dtype=np.int32))
    lengths = rng.integers(tokens // 2, tokens + tokens // 2, count)
    ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    total = int(lengths.sum())
    drawn = np.minimum(rng.zipf(1.3, total + 20 * count), 31_999).astype(np.int32)
    logprobs = -rng.exponential(1.0, total).astype(np.float32)
    return {
        "prompt_ids": pa.ListArray.from_arrays(prompt, pa.array(drawn[total:])),
        "completion_ids": pa.ListArray.from_arrays(ends, pa.array(drawn[:total])),
        "behavior_logprobs": pa.ListArray.from_arrays(ends, pa.array(logprobs)),
    }


def label_rows(rollouts: pa.Table, labeler: Labeler, nights: Nights) -> pa.Table:
    """One final label per rollout; 1 % of them failed and have no score."""
    count = rollouts.num_rows
    number = rollouts["round"][0].as_py()
    rng = np.random.default_rng([number, LABELERS.index(labeler), count])
    is_scored = rng.random(count) >= 0.01
    # A policy that gets less toxic from night to night.
    raw = rng.normal(-1.0 - number / 200, 2.0, count)
    score = pa.array(1 / (1 + np.exp(-raw)), mask=~is_scored)
    is_judge = labeler.kind == "judge"
    columns = {
        name: rollouts[name] for name in ("rollout_id", "prompt_id", "completion_sha256")
    } | {
        "label_id": _strings(_random_hex(rng, count, 32)),
        "label_key": _strings(_random_hex(rng, count, 32)),
        "score": score,
        "score_raw": pa.array(raw, mask=~is_scored),
        "status": pa.array(np.where(is_scored, "ok", "malformed")),
        "input_tokens": pa.array(rng.integers(20, 60, count, np.int32)),
    }
    if is_judge and nights.words:
        columns["rationale"] = _sentences(rng, count, nights.words)
    constant = {
        "round": number,
        "labeler": labeler.name,
        "revision": labeler.revision,
        "kind": labeler.kind,
        "role": labeler.role,
        "family": "distilbert",
        "criterion": labeler.criterion,
        "mode": "pointwise",
        "sample_index": 0,
        "attempt": 0,
        "is_final": True,
        "model": f"starter-{labeler.name}",
        "model_revision": labeler.revision * 2,
        "tokenizer_sha256": labeler.revision * 4,
        "backend": "transformers",
        "backend_version": "5.19.0",
        "device": "cpu",
        "dtype": "float32",
        "sampling_json": '{"max_tokens": 126, "stride": 63}',
        "raw_output": '{"score": 4}' if is_judge else None,
        "score_method": "softmax_expectation",
        "score_scale": "0..1",
        "window_count": 1,
        "code_version": "0.1.0",
        "worker": "node:19589",
        "purpose": rollouts["purpose"][0].as_py(),
        "labeled_at": _STARTED + timedelta(days=number, hours=1),
    }
    return _with_constants("labels", columns, constant, count)


def _with_constants(
    name: str, columns: dict[str, pa.Array], constant: dict[str, object], count: int
) -> pa.Table:
    schema = TABLES[name].schema
    constants = {
        column: pa.repeat(pa.scalar(value, schema.field(column).type), count)
        for column, value in constant.items()
    }
    return conform(name, pa.table(columns | constants))


def _policy(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()[:32]


def _hex(digits: np.ndarray) -> np.ndarray:
    """Bytes `[n, k]` as hex digits `[n, 2 k]`, both uint8."""
    return _HEX[digits].view(np.uint8)


def _random_hex(rng: np.random.Generator, count: int, digits: int) -> np.ndarray:
    return _hex(np.frombuffer(rng.bytes(count * digits // 2), np.uint8).reshape(count, -1))


def _strings(characters: np.ndarray) -> pa.StringArray:
    """ASCII characters `[n, width]` as n strings of that width."""
    count, width = characters.shape
    offsets = np.arange(0, (count + 1) * width, width, dtype=np.int32)
    data = np.ascontiguousarray(characters)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(data))


def _sentences(rng: np.random.Generator, count: int, words: int) -> pa.Array:
    """Texts of about `words` words, cut from one long random text."""
    text = " ".join(rng.choice(_TEXT.split(), 40_000)).encode()
    length = words * 6
    starts = rng.integers(0, len(text) - 2 * length, count)
    ends = starts + rng.integers(length // 2, length + length // 2, count)
    return pa.array(
        [text[a:b].decode() for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    )
