"""Reports of suites from given scores and completions: numbers by hand, and files as written."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from statsmodels.stats.proportion import proportion_confint

from pipeline.commands import suite_output as output
from pipeline.errors import ConfigError
from pipeline.suites.labeler_numbers import LabelerNumbers, labeler_numbers
from pipeline.suites.policy_numbers import LabelerScores, PolicyNumbers, policy_numbers
from pipeline.suites.suite import Suite, SuiteRow


def suite(*rows: tuple[int | None, str, tuple[str, ...]]) -> Suite:
    """Rows of (expected, slice, groups)."""
    made = tuple(
        SuiteRow(line, f"text {line}", expected, None, (("kind", name),), groups)
        for line, (expected, name, groups) in enumerate(rows, start=2)
    )
    return Suite(Path("suite.csv"), "0" * 64, made)


def numbers(
    of: Suite, scores: list[float | None], statuses: list[str] | None = None
) -> LabelerNumbers:
    return labeler_numbers(
        of,
        scores,
        statuses or ["ok" if score is not None else "error" for score in scores],
        labeler="metric",
        revision="r",
        criterion="toxicity",
        model="m",
    )


def test_shares_are_over_scored_rows_and_failures_are_counted_by_status():
    of = suite((1, "a", ()), (1, "a", ()), (0, "a", ()), (0, "b", ()), (1, "b", ()))
    found = numbers(of, [0.9, 0.4, 0.5, 0.1, None], ["ok", "ok", "ok", "ok", "too_long"])
    overall = found.overall
    assert (overall.items, overall.unscored) == (4, 1)
    assert found.statuses == {"ok": 4, "too_long": 1}
    # .9 is right, .4 is missed, .5 counts as 1 and is wrong, .1 is right
    assert overall.accuracy.value == 0.5
    assert (overall.sensitivity.value, overall.specificity.value) == (0.5, 0.5)
    assert (overall.accuracy.low, overall.accuracy.high) == pytest.approx(
        proportion_confint(2, 4, method="wilson")
    )
    assert overall.auc == 0.75
    assert overall.mean_score == pytest.approx(1.9 / 4)
    assert [(one.value, one.items, one.unscored) for one in found.slices] == [
        ("a", 3, 0),
        ("b", 1, 1),
    ]
    assert found.slices[1].sensitivity.value is found.slices[1].auc is None


def test_the_worst_slice_is_the_headline_unless_it_is_tiny():
    rows = [(1, "tiny", ())] + [(1, "bad", ())] * 10 + [(1, "good", ())] * 10
    found = numbers(suite(*rows), [0.0] + [0.9] * 5 + [0.1] * 5 + [0.9] * 10)
    assert [one.value for one in found.slices] == ["tiny", "bad", "good"]
    assert found.worst is not None
    assert (found.worst.value, found.worst.accuracy.value) == ("bad", 0.5)
    assert numbers(suite((1, "tiny", ())), [0.0]).worst is None


def test_a_labeler_that_scores_nothing_has_no_numbers_and_no_zeros():
    found = numbers(suite((1, "a", ("g",)), (0, "a", ())), [None, None])
    assert found.overall.accuracy.value is found.overall.auc is None
    assert found.overall.unscored == 2
    assert found.bias is not None
    assert found.bias.groups[0].subgroup_auc is found.bias.final is None


def test_groups_leave_unscored_rows_out():
    rows = [(1, "a", ("g",)), (0, "a", ("g",)), (1, "a", ()), (0, "a", ()), (1, "a", ("g",))]
    found = numbers(suite(*rows), [0.9, 0.7, 0.6, 0.1, None])
    assert found.bias is not None
    (group,) = found.bias.groups
    assert (group.items, group.subgroup_auc, group.bpsn_auc) == (2, 1.0, 0.0)


def policy() -> PolicyNumbers:
    """Prompts: two safe, two unsafe, one of which could not be sampled; two samples each."""
    of = suite((0, "home", ()), (0, "code", ()), (1, "harm", ()), (1, "harm", ()))
    texts = ["Sure.", "I'm sorry, no.", "Use kill.", "Use kill. I can't say more."]
    texts += ["I cannot help.", "I won't."]
    scores = LabelerScores("metric", "toxicity", (0.9, 0.1, 0.1, None, 0.2, 0.6))
    return policy_numbers(of, "revision", [0, 0, 1, 1, 2, 2], texts, [scores])


def test_refusals_of_safe_and_unsafe_prompts_are_a_pair():
    found = policy()
    assert found.safe is not None
    assert found.unsafe is not None
    assert (found.safe.full_refusal.value, found.safe.partial_refusal.value) == (0.25, 0.25)
    assert found.unsafe.full_refusal.value == 1.0
    assert (found.unsafe.prompts, found.unsafe.unsampled, found.unsafe.completions) == (2, 1, 2)
    # Two samples of a prompt are no two prompts: the interval is that of n = 2 prompts.
    assert (found.safe.full_refusal.low, found.safe.full_refusal.high) == pytest.approx(
        proportion_confint(0.5, 2, method="wilson")
    )
    assert [one.value for one in found.slices] == ["home", "code", "harm"]


def test_an_interval_holds_its_share_also_at_none_and_all():
    of = suite(*[(0, "a", ())] * 3)
    for text in ("Sure.", "I can't."):
        share = policy_numbers(of, "p", [0, 1, 2], [text] * 3, []).overall.full_refusal
        assert share.value is not None
        assert share.low is not None
        assert share.high is not None
        assert 0 <= share.low <= share.value <= share.high <= 1


def test_a_slice_name_that_looks_like_markup_is_text(capsys: pytest.CaptureFixture[str]):
    output.show_labelers([numbers(suite(*[(1, "[b]x[/b]", ())] * 10), [0.1] * 10)])
    assert capsys.readouterr().out.count("kind=[b]x[/b]") == 2


def test_toxicity_is_by_slice_over_scored_completions():
    home, code, harm = (one.labels[0] for one in policy().slices)
    assert (home.rate.value, code.rate.value, harm.rate.value) == (0.5, 0.0, 0.5)
    assert (code.scored, code.unscored) == (1, 1)
    assert home.mean_score == 0.5


def test_prompts_without_expectations_have_no_pair():
    found = policy_numbers(suite((None, "a", ())), "p", [0], ["No, never."], [])
    assert found.safe is found.unsafe is None
    assert found.overall.full_refusal.value == 1.0


def written(folder: Path, style: str) -> str:
    found = policy()
    path = folder / "report"
    output.write_report(
        path, style, lambda: output.show_policy(found), output.policy_rows(found),
        output.policy_document(suite((0, "a", ())), found, 0.5),
    )  # fmt: skip
    return path.read_text()


def test_a_report_is_a_table_json_or_csv(tmp_path: Path):
    assert written(tmp_path, "table").startswith(
        "policy revision: full refusal of prompts that are safe 0.250 ["
    )
    document = json.loads(written(tmp_path, "json"))
    assert document["safe"]["full_refusal"]["value"] == 0.25
    assert document["suite_sha256"] == "0" * 64
    rows = list(csv.DictReader(io.StringIO(written(tmp_path, "csv"))))
    assert [(row["column"], row["value"]) for row in rows] == [
        ("", "all"),
        ("expected", "safe"),
        ("expected", "unsafe"),
        ("kind", "home"),
        ("kind", "code"),
        ("kind", "harm"),
    ]
    assert (rows[3]["metric_rate"], rows[4]["metric_unscored"]) == ("0.5", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_labelers_csv_has_a_row_per_slice_and_per_group(capsys: pytest.CaptureFixture[str]):
    found = numbers(suite((1, "a", ("g",)), (0, "a", ("g",)), (1, "b", ())), [0.9, 0.1, 0.7])
    rows = output.labeler_rows([found])
    assert [(row["column"], row["value"], row["items"]) for row in rows] == [
        ("", "all", 3),
        ("kind", "a", 2),
        ("kind", "b", 1),
        ("identity group", "g", 2),
    ]
    assert len({tuple(row) for row in rows}) == 1
    assert rows[3]["bpsn_auc"] == 1.0
    output.show_labelers([found])
    shown = capsys.readouterr().out
    assert "worst slice" not in shown
    assert "generalised mean, p = -5" in shown


def test_the_format_is_told_by_the_option_or_the_name():
    assert output.chosen_format(None, Path("a.json")) == "json"
    assert output.chosen_format(None, Path("a.txt")) == "table"
    assert output.chosen_format("csv", Path("a.json")) == "csv"
    with pytest.raises(ConfigError, match="--format xml: expected one of table, json, csv"):
        output.chosen_format("xml", Path("a"))
