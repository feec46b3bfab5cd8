"""Records of others -> rows of prompts, rollouts, labels, rewards and preference pairs.

Rows are text only: round, token ids and log-probs NULL, for no policy of this warehouse sampled
them. Their prompts have ids and a purpose of their own (`imported`, `pairs`), so no night samples
or evaluates on them; `rollouts.purpose` says on which side of the hold-out split they are.
A scored completion is named by its source, its prompt and its text, and how often that text has
stood in its file; so what two files share comes in once. A raw score within [0, 1] is a label's
score; a name whose raw scores leave that range has none without a scale, only `score_raw` and
status `out_of_range`: a part of them that happens to lie in [0, 1] would mean something else.
Rewards are sums of raw scores, as TRL adds them.
A pair lies where pairs of sampled completions lie, not in `gold`, which holds verdicts on one
completion. How much better the chosen one is nobody said: margin 0, rewards and probability NULL.
Annotators who disagree about a pair give two rows.
Not here: files and their formats, the commit (importer.py), pairs as trainers read them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from labeling.label import label_id, label_key
from pipeline.ingest.files import FileContent, Pair, ScoredRollout
from pipeline.ingest.meaning import PARSER_VERSION, ImportOptions
from pipeline.ingest.messages import Messages, first_turn_sha256, is_holdout
from pipeline.runtime.publishing import code_version
from warehouse.files import text_sha256

Row = dict[str, object]
PairId = tuple[str, str]
Ranges = dict[str, tuple[float, float]]


@dataclass
class ImportedRows:
    """Rows by the id of their rollout, prompts and pairs by their own; each once."""

    prompts: dict[str, Row] = field(default_factory=dict)
    rollouts: dict[str, Row] = field(default_factory=dict)
    labels: dict[str, list[Row]] = field(default_factory=dict)
    rewards: dict[str, Row] = field(default_factory=dict)
    pairs: dict[PairId, Row] = field(default_factory=dict)

    def leave_out(self, rollouts: Set[str], pairs: Set[PairId]) -> None:
        """Drops what the warehouse has, and the prompts that then have nothing new."""
        for rows in (self.rollouts, self.labels, self.rewards):
            for rollout_id in rollouts & rows.keys():
                del rows[rollout_id]
        for pair_id in pairs & self.pairs.keys():
            del self.pairs[pair_id]
        needed = {row["prompt_id"] for row in (*self.rewards.values(), *self.pairs.values())}
        self.prompts = {name: row for name, row in self.prompts.items() if name in needed}


def score_ranges(rollouts: Sequence[ScoredRollout]) -> Ranges:
    """Least and greatest finite raw score by name; infinities where there is none."""
    ranges: Ranges = {}
    for rollout in rollouts:
        for name, value in rollout.scores.items():
            low, high = ranges.setdefault(name, (math.inf, -math.inf))
            if math.isfinite(value):
                ranges[name] = (min(low, value), max(high, value))
    return ranges


def out_of_range(ranges: Ranges, options: ImportOptions) -> list[str]:
    """The names whose raw scores are no scores in [0, 1] and have no scale, sorted."""
    return sorted(
        name
        for name, (low, high) in ranges.items()
        if name not in options.scales and (low < 0 or high > 1)
    )


def imported_rows(
    content: FileContent, options: ImportOptions, unscaled: Sequence[str]
) -> ImportedRows:
    """The rows of one file; `unscaled` names the scores that have no place in [0, 1]."""
    rows, now = ImportedRows(), datetime.now(UTC)
    seen: Counter[str] = Counter()
    for rollout in content.rollouts:
        prompt = _prompt_row(rollout.messages, "imported", options, now)
        text_id = f"{prompt['prompt_id']}-{_short(rollout.completion)}"
        row = _rollout_row(f"{text_id}-{seen[text_id]}", prompt, rollout.completion, options) | {
            "sample_index": seen[text_id],
            "policy_revision": rollout.policy,
            "engine": f"import/{options.format}",
        }
        seen[text_id] += 1
        labels = {
            name: _label_row(name, value, row, options, name in unscaled)
            for name, value in rollout.scores.items()
        }
        rollout_id = str(row["rollout_id"])
        rows.prompts[str(prompt["prompt_id"])] = prompt
        rows.rollouts[rollout_id] = row
        rows.labels[rollout_id] = list(labels.values())
        rows.rewards[rollout_id] = _reward_row(rollout, row, labels, options)
    for pair in content.pairs:
        _add_pair(rows, pair, options, now)
    return rows


def _add_pair(rows: ImportedRows, pair: Pair, options: ImportOptions, now: datetime) -> None:
    prompt = _prompt_row(pair.messages, "pairs", options, now)
    chosen, rejected = (
        _rollout_row(f"{prompt['prompt_id']}-{_short(text)}", prompt, text, options)
        for text in (pair.chosen, pair.rejected)
    )
    ids = str(chosen["rollout_id"]), str(rejected["rollout_id"])
    rows.prompts[str(prompt["prompt_id"])] = prompt
    rows.rollouts |= zip(ids, (chosen, rejected), strict=True)
    rows.pairs[ids] = {
        "prompt_id": prompt["prompt_id"],
        "recipe": f"gold/{options.source}",
        "chosen_id": ids[0],
        "rejected_id": ids[1],
        "margin": 0.0,
    }


def recipe_row(options: ImportOptions) -> Row:
    """The recipe as a row of `templates`, so that what a reward was made of can be looked up."""
    return {
        "template_sha256": _recipe_sha256(options),
        "kind": "recipe",
        "name": options.recipe,
        "version": PARSER_VERSION,
        "text": options.text(),
    }


def _recipe_sha256(options: ImportOptions) -> str:
    return text_sha256(f"{options.recipe} {options.text()}")


def _prompt_row(messages: Messages, purpose: str, options: ImportOptions, now: datetime) -> Row:
    text = json.dumps(messages, ensure_ascii=False)
    kind = "gold" if purpose == "pairs" else options.source
    return {
        "prompt_id": f"{kind}-{_short(options.source, text)}",
        "source": options.source,
        "purpose": purpose,
        "first_turn_sha256": first_turn_sha256(messages),
        "messages": text,
        "ingested_at": now,
    }


def _rollout_row(rollout_id: str, prompt: Row, completion: str, options: ImportOptions) -> Row:
    held = is_holdout(str(prompt["first_turn_sha256"]), options.holdout)
    return {
        "rollout_id": rollout_id,
        "prompt_id": prompt["prompt_id"],
        "sample_index": 0,
        "purpose": "holdout" if held else "train",
        "policy_revision": "unknown",
        "completion": completion,
        "completion_sha256": text_sha256(completion),
        "engine": f"import/{options.source}",
        "engine_version": PARSER_VERSION,
        "generated_at": prompt["ingested_at"],
    }


def _short(*parts: str) -> str:
    """16 hex digits that name these texts."""
    return text_sha256("\x1f".join(parts))[:16]


def _label_row(
    name: str, raw: float, rollout: Row, options: ImportOptions, is_unscaled: bool
) -> Row:
    labeler = f"{options.source}/{name}"
    revision = f"{options.recipe}@{_recipe_sha256(options)[:12]}"
    criterion = options.criteria.get(name, "reward")
    key = label_key(str(rollout["rollout_id"]), labeler, revision, criterion)
    return {
        "label_id": label_id(key, 0),
        "label_key": key,
        "rollout_id": rollout["rollout_id"],
        "prompt_id": rollout["prompt_id"],
        "completion_sha256": rollout["completion_sha256"],
        "labeler": labeler,
        "revision": revision,
        "kind": "imported",
        "role": "reward",
        "criterion": criterion,
        "mode": "pointwise",
        "sample_index": 0,
        "attempt": 0,
        "is_final": True,
        "model": "unknown",
        "model_revision": "unknown",
        "backend": rollout["engine"],
        "backend_version": PARSER_VERSION,
        "template_sha256": _recipe_sha256(options),
        "code_version": code_version(),
        "labeled_at": rollout["generated_at"],
    } | _score_columns(name, raw, options, is_unscaled)


def _score_columns(name: str, raw: float, options: ImportOptions, is_unscaled: bool) -> Row:
    if not math.isfinite(raw):
        return {"status": "non_finite", "status_detail": f"the imported score is {raw}"}
    low, high = options.scales.get(name, (0.0, 1.0))
    score = (raw - low) / (high - low)
    if is_unscaled:
        why = "the raw scores of this name leave [0, 1]; an import with --scale maps them"
    elif not 0 <= score <= 1:
        why = f"{raw} is outside of the scale from {low:g} to {high:g}"
    else:
        scale = {"score_method": "imported", "score_scale": f"{low:g} to {high:g}"}
        return {"status": "ok", "score_raw": raw, "score": score} | scale
    return {"status": "out_of_range", "status_detail": why, "score_raw": raw}


def _reward_row(
    rollout: ScoredRollout, row: Row, labels: dict[str, Row], options: ImportOptions
) -> Row:
    terms = [
        {
            "labeler": labels[name]["labeler"],
            "label_id": labels[name]["label_id"],
            "value": raw,
            "mean": 0.0,
            "sd": 1.0,
            "weight": options.weights.get(name, 1.0),
            "contribution": options.weights.get(name, 1.0) * raw,
        }
        for name, raw in rollout.scores.items()
        if math.isfinite(raw)
    ]
    reward, excluded = _reward(rollout, options)
    return {
        "rollout_id": row["rollout_id"],
        "recipe": options.recipe,
        "recipe_sha256": _recipe_sha256(options),
        "prompt_id": row["prompt_id"],
        "purpose": row["purpose"],
        "is_eligible": excluded is None,
        "excluded_reason": excluded,
        "reward": reward,
        "label_count": len(terms),
        "label_ids": [term["label_id"] for term in terms],
        "terms": terms,
    }


def _reward(rollout: ScoredRollout, options: ImportOptions) -> tuple[float | None, str | None]:
    """The reward, or why there is none."""
    if rollout.weight == 0:
        return None, "its file gives it weight 0"
    if rollout.scores:
        total = sum(options.weights.get(name, 1.0) * raw for name, raw in rollout.scores.items())
    elif rollout.weight is not None:
        total = rollout.weight
    else:
        return None, "no score"
    if not abs(total) <= float(np.finfo(np.float32).max):
        return None, "the sum of its scores is not finite"
    return total, None
