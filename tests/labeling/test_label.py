"""Label rows: keys, what a measurement may say, and conformance to the warehouse's schema."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from labeling.label import (
    LabelIdentity,
    LabelLogprob,
    Measurement,
    decoded_texts,
    label_id,
    label_key,
    label_rows,
)
from tests.labeling.subjects import subjects, subjects_of_bytes
from warehouse.schemas import SCORED_STATUSES, STATUSES, TABLES

IDENTITY = LabelIdentity(
    labeler="hate",
    revision="abc",
    kind="classifier",
    role="metric",
    criterion="toxicity",
    model="m",
    model_revision="mr",
    backend="transformers",
    backend_version="1",
    score_method="softmax_expectation",
    score_scale="0..1",
)


def test_a_label_key_changes_with_everything_that_identifies_a_label():
    one = label_key("r0", "hate", "abc", "toxicity")
    others = [
        label_key("r1", "hate", "abc", "toxicity"),
        label_key("r0", "hatf", "abc", "toxicity"),
        label_key("r0", "hate", "abd", "toxicity"),
        label_key("r0", "hate", "abc", "helpfulness"),
        label_key("r0", "hate", "abc", "toxicity", partner_rollout_id="r9"),
        label_key("r0", "hate", "abc", "toxicity", principle="kind"),
        label_key("r0", "hate", "abc", "toxicity", pair_order="AB"),
        label_key("r0", "hate", "abc", "toxicity", sample_index=1),
        label_key("r", "0hate", "abc", "toxicity"),
    ]
    assert len({one, *others}) == 10
    assert one == label_key("r0", "hate", "abc", "toxicity")
    assert len(one) == len(label_id(one, 0)) == 32
    assert label_id(one, 0) != label_id(one, 1)


def test_rows_conform_and_carry_their_provenance():
    measured = [
        Measurement("ok", 0.25, 3.0, score_logprobs=(LabelLogprob("3", 7, -0.5),), label_mass=0.9),
        Measurement("low_mass", score_logprobs=(LabelLogprob("3", 7, None),), label_mass=0.0),
    ]
    table = label_rows(IDENTITY, subjects(["a", "b"]), measured)
    assert table.schema.equals(TABLES["labels"].schema)
    first, second = table.to_pylist()
    assert (first["labeler"], first["attempt"], first["is_final"]) == ("hate", 0, True)
    assert first["score_logprobs"] == [{"label": "3", "token_id": 7, "logprob": -0.5}]
    assert first["score_method"] == "softmax_expectation"
    assert (second["score"], second["score_raw"], second["score_method"]) == (None, None, None)
    assert second["score_logprobs"][0]["logprob"] is None


def test_the_same_night_again_gives_the_same_rows():
    measured = [Measurement("ok", 0.25, 3.0)]
    again = [
        label_rows(IDENTITY, subjects(["a"]), measured).drop_columns(
            list(TABLES["labels"].volatile)
        )
        for _ in range(2)
    ]
    assert again[0].equals(again[1])


@pytest.mark.parametrize("status", sorted(set(STATUSES) - set(SCORED_STATUSES)))
def test_a_failed_measurement_has_no_number(status: str):
    assert Measurement(status).score is None
    with pytest.raises(ValueError, match=f"status {status} with score 0.5"):
        Measurement(status, score=0.5)


@pytest.mark.parametrize(
    "numbers",
    [
        {"score": None, "score_raw": 1.0},
        {"score": math.nan, "score_raw": 1.0},
        {"score": 0.5, "score_raw": math.inf},
        {"score": 1.5, "score_raw": 1.0},
        {"score": 0.5, "score_raw": 1.0, "entropy": math.nan},
    ],
)
def test_a_score_is_a_finite_number_in_its_range(numbers: dict[str, float | None]):
    with pytest.raises(ValueError, match=r"score|finite"):
        Measurement("ok", **numbers)


def test_an_unknown_status_is_refused():
    with pytest.raises(ValueError, match="unknown status 'fine'"):
        Measurement("fine")


def test_bytes_that_are_not_text_are_no_text():
    table = subjects_of_bytes([b"ok", b"\xed\xa0\x80", b"\xff", "\u00e9".encode()])
    assert decoded_texts(table["completion"]) == ["ok", None, None, "\u00e9"]
    assert decoded_texts(pa.chunked_array([["a", None]])) == ["a", None]
