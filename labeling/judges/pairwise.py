"""A judge of two completions of one prompt: always in both orders, whatever judge it is.

The judge is asked about (A, B) and about (B, A); each order is a label of its own (`pair_order`),
and a third row has their mean (position bias: RLAIF, arXiv 2309.00267, section 2.1.1) and whether
both preferred the same one (`is_consistent`). A score is how far rollout_id is preferred to
partner_rollout_id, in [0, 1]. Not here: what one order is asked and how it is read (likelihood.py,
written.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from labeling.label import label_id, label_key
from labeling.labeler import Labeler
from warehouse.schemas import SCORED_STATUSES, TABLES

Row = dict[str, Any]
_ORDERS = ("AB", "BA")
# Of the mean's row: what only a call has. Its calls have rows of their own.
_OF_A_CALL = (
    *("raw_output", "score_logprobs", "label_mass", "entropy", "rendered_prompt", "rationale"),
    *("rendered_prompt_sha256", "input_tokens", "output_tokens", "cached_input_tokens"),
    *("is_usage_estimated", "cost_usd", "latency_ms", "queue_ms", "retries", "request_id"),
    *("stop_reason", "error_type", "error_message", "supersedes", "is_cached", "service_tier"),
)


class PairwiseJudgeLabeler:
    """See labeling.labeler.Labeler. Its subjects are pairs, as `pair_subjects` makes them."""

    def __init__(self, judge: Labeler) -> None:
        """`judge` has a rubric that compares; asked about one order it scores the first one."""
        self._judge = judge
        self.identity = replace(judge.identity, mode="pairwise")

    def label(self, subjects: pa.Table, progress: Callable[[int], None] | None = None) -> pa.Table:
        """See Labeler.label: per pair its attempts in both orders, and their mean; in order."""
        labels = self._judge.label(_in_both_orders(subjects), _halved(progress))
        calls = _by_subject(labels.to_pylist())
        rows: list[Row] = []
        for pair in subjects.select(["rollout_id", "partner_rollout_id"]).to_pylist():
            finals = []
            for order in _ORDERS:
                mine = [self._of_pair(row, pair, order) for row in next(calls)]
                rows += mine
                finals.append(mine[-1])
            rows.append(self._mean(*finals))
        return pa.Table.from_pylist(rows, schema=TABLES["labels"].schema)

    def template_rows(self) -> pa.Table:
        """The rubric."""
        return self._judge.template_rows()

    def close(self) -> None:
        """Frees the judge."""
        self._judge.close()

    def _of_pair(self, row: Row, pair: Row, order: str) -> Row:
        """A judge's row as one of this pair in this order."""
        key = self._key(row, pair, order)
        is_flipped = order == "BA" and row["score"] is not None
        attempt = row["attempt"]
        return row | pair | {
            "label_key": key,
            "label_id": label_id(key, attempt),
            "supersedes": label_id(key, attempt - 1) if row["supersedes"] else None,
            "sample_index": 0,
            "mode": "pairwise",
            "pair_order": order,
            "score": 1 - row["score"] if is_flipped else row["score"],
        }  # fmt: skip

    def _mean(self, first: Row, second: Row) -> Row:
        """The row of both orders; it has a score if both have."""
        scores = [row["score"] for row in (first, second)]
        failed = [row for row in (first, second) if row["status"] not in SCORED_STATUSES]
        key = self._key(first, first, None)
        about: Row = {
            "label_key": key,
            "label_id": label_id(key, 0),
            "attempt": 0,
            "is_final": True,
            "pair_order": None,
        }
        if failed:
            status, detail = failed[0]["status"], failed[0]["status_detail"] or "no score"
            about |= {
                "status": status,
                "status_detail": f"order {failed[0]['pair_order']}: {detail}",
                **dict.fromkeys(("score", "score_raw", "score_method", "score_scale")),
            }
        else:
            mean = sum(scores) / 2
            repaired = "ok_repaired" in (first["status"], second["status"])
            about |= {
                "status": "ok_repaired" if repaired else "ok",
                "status_detail": None,
                "score": mean,
                "score_raw": mean,
                "score_scale": "0..1",
                "score_method": "mean_of_orders",
                "is_consistent": (scores[0] > 0.5) == (scores[1] > 0.5)
                and (scores[0] < 0.5) == (scores[1] < 0.5),
            }
        return first | dict.fromkeys(_OF_A_CALL) | about

    def _key(self, row: Row, pair: Row, order: str | None) -> str:
        identity = self.identity
        return label_key(
            pair["rollout_id"],
            identity.labeler,
            identity.revision,
            identity.criterion,
            partner_rollout_id=pair["partner_rollout_id"],
            principle=row["principle"],
            pair_order=order,
        )


def pair_subjects(subjects: pa.Table, pairs: str) -> pa.Table:
    """Pairs of completions of one prompt, out of the rows that a pointwise labeler would read.

    `pairs`: adjacent (each completion in one pair, by rollout id) or all. Equal texts make no pair.
    Columns as in `subjects`, with partner_rollout_id and second (the partner's completion).
    """
    by_prompt: dict[str, list[int]] = {}
    ids = subjects["rollout_id"].to_pylist()
    prompts = subjects["prompt_id"].to_pylist()
    for row in sorted(range(len(ids)), key=ids.__getitem__):
        by_prompt.setdefault(prompts[row], []).append(row)
    chosen: list[tuple[int, int]] = []
    for rows in by_prompt.values():
        chosen += (
            combinations(rows, 2)
            if pairs == "all"
            else zip(rows[::2], rows[1::2], strict=False)  # an odd one is left over
        )
    hashes = subjects["completion_sha256"].to_pylist()
    chosen = [(a, b) for a, b in chosen if hashes[a] != hashes[b]]
    first = subjects.take(pa.array([a for a, _ in chosen], pa.int64()))
    second = subjects.take(pa.array([b for _, b in chosen], pa.int64()))
    table = first.append_column("partner_rollout_id", second["rollout_id"])
    return table.append_column("second", second["completion"])


def _in_both_orders(subjects: pa.Table) -> pa.Table:
    """Two rows per pair: (first, second), then (second, first), under one id (and principle)."""
    swapped = subjects.rename_columns({"completion": "second", "second": "completion"})
    swapped = swapped.select(subjects.column_names)
    count = subjects.num_rows
    order = pa.array([place for i in range(count) for place in (i, count + i)], pa.int64())
    both = pa.concat_tables([subjects, swapped]).take(order)
    pair_ids = pc.binary_join_element_wise(both["rollout_id"], both["partner_rollout_id"], " ")
    place = both.schema.get_field_index("rollout_id")
    return both.set_column(place, "rollout_id", pair_ids).drop_columns(["partner_rollout_id"])


def _by_subject(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The attempts of one question after the other: each ends with its final row."""
    attempts: list[Row] = []
    for row in rows:
        attempts.append(row)
        if row["is_final"]:
            yield attempts
            attempts = []


def _halved(progress: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """Two orders are one pair."""
    if progress is None:
        return None
    seen = 0

    def count(orders: int) -> None:
        nonlocal seen
        before, seen = seen // 2, seen + orders
        if seen // 2 > before:
            progress(seen // 2 - before)

    return count
