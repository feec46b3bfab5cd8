"""The report: what it says, that nothing in it can act, and that a browser shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.warehouse.builder import label, prompt, publish_rows, rollout, round_row, small_warehouse
from warehouse.errors import StoreError
from warehouse.ledger.ledger import Ledger
from warehouse.publish import publish
from warehouse.report.report import write_report
from warehouse.schemas import table_from_rows
from warehouse.store import open_store

ATTACK = "<script>document.title = 'owned'</script>"


class Page(HTMLParser):
    """The tags of a page, the cells of its tables and all its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data.strip()


def evaluation(metric: str, round: int, value: float | None, **columns: object) -> dict:
    return {
        "round": round,
        "policy_revision": f"policy-{round}",
        "metric": metric,
        "value": value,
        "unit": "tokens",
        "method": "mean",
        "prompts": 2,
        "completions": 4,
        "samples_per_prompt": 2,
    } | columns


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report on the small warehouse plus a third, hostile round."""
    root = small_warehouse(tmp_path_factory.mktemp("report") / "night")
    rollouts = [
        rollout(2, name, k, completion=f"{ATTACK} {name} {k}")
        for name in ("p1", "p2")
        for k in (0, 1)
    ]
    labels = [label(row, 0.1) for row in rollouts]
    labels += [label(row, 0.9, "$hate_{<b>", role="reward") for row in rollouts]
    publish_rows(root, "round=2/eval-rollouts", 2, rollouts=rollouts)
    publish_rows(root, "round=2/eval-labels", 2, labels=labels)
    publish_rows(
        root,
        "round=1/training",
        1,
        rounds=[round_row(1, status="rejected", reason="KL 7.1 above the budget 6")],
    )
    rows = [
        evaluation("length", 0, 12.5, low=11.0, high=14.0),
        evaluation("length", 2, 30.0),
        evaluation("distinct_2", 2, None),
    ]
    publish_rows(root, "evaluation", evaluations=rows)
    out = write_report(root, root.parent / "new" / "report.html")
    return out.read_text(encoding="utf-8")


def test_the_table_says_what_the_mart_says(html: str) -> None:
    rows = Page(html).rows
    assert [
        "0",
        "meter",
        "metric",
        "2",
        "4",
        "2",
        "50.0%",
        "15.0% – 85.0%",
        "0.525",
        "0.75",
    ] in rows
    found = [row for row in rows if row[:3] == ["2", "$hate_{<b>", "reward"]]
    assert [row[6] for row in found] == ["100.0%"]


def test_the_headline_leaves_out_a_policy_that_was_not_promoted(tmp_path: Path) -> None:
    root = small_warehouse(tmp_path / "night")
    assert "50.0% → 25.0%" in write_report(root, tmp_path / "a.html").read_text()
    row = round_row(
        0, status="rejected", reason="length <", policy_revision_out="policy-0",
    )  # fmt: skip
    old = [file.path for file in Ledger(open_store(root)).files(table="rounds")]
    publish(root, "verdict", {"rounds": table_from_rows("rounds", [row])}, remove=old)
    page = write_report(root, tmp_path / "b.html").read_text()
    assert "50.0% → 25.0%" not in page
    assert "<b>Round 0 is rejected</b>, its policy is kept but not used: length &lt;." in page
    assert ["1", "meter", "metric"] in [cells[:3] for cells in Page(page).rows], (
        "it is in the table"
    )


def test_evaluations_stand_side_by_side_by_round(html: str) -> None:
    rows = Page(html).rows
    assert ["metric", "unit", "round 0", "round 2"] in rows
    assert ["length", "tokens", "12.511 – 14", "30"] in rows
    assert not [row for row in rows if row[0] == "distinct_2"]


def test_rounds_coverage_examples_and_version_are_there(html: str) -> None:
    page = Page(html)
    assert [row[1:3] for row in page.rows if row[:2] == ["1", "rejected"]] == [
        ["rejected", "KL 7.1 above the budget 6"]
    ]
    assert ["0", "train", "hate", "ok", "2", "100.0%"] in page.rows
    assert "Answer 0-p1-0." in page.text
    assert "change -0.80" in page.text
    assert "version 12" in page.text
    assert "round=0/training" not in page.text


def test_strata_stand_by_their_first_and_last_round(tmp_path: Path) -> None:
    """p1 | p2 of two sources score .9 .2 | .6 .4, then .1 .2 | .3 .7. The first scores sort the
    prompts, so that split begins with round 1, where it has no other round to be held against."""
    root = tmp_path / "night"
    publish_rows(root, "sources", prompts=[prompt("p1", source="<b>"), prompt("p2", source="hh")])
    for number, scores in enumerate([(0.9, 0.2, 0.6, 0.4), (0.1, 0.2, 0.3, 0.7)]):
        rollouts = [rollout(number, name, k) for name in ("p1", "p2") for k in (0, 1)]
        labels = [label(row, score) for row, score in zip(rollouts, scores, strict=True)]
        publish_rows(root, f"r{number}", number, rollouts=rollouts)
        publish_rows(root, f"l{number}", number, labels=labels)
    rows = Page(write_report(root, tmp_path / "report.html").read_text()).rows
    wide = "9.5% – 90.5%, round {}"
    assert ["source", "<b>", "meter", "1", f"50.0%{wide.format(0)}"] == next(
        cells[:5] for cells in rows if cells[1:2] == ["<b>"]
    )
    assert [cells[:2] for cells in rows if cells[0] == "first score"] == [
        ["first score", "1 mild"],
        ["first score", "2 middling"],
    ]
    assert not [cells for cells in rows if cells[0] == "turns"], "one stratum is no split"


def test_the_reward_stands_beside_judges_it_does_not_read(tmp_path: Path) -> None:
    """Reward labeler .8 -> .1 while the metric goes .4 -> .6: the last line and an alarm say so."""
    for number, (proxy, metric) in enumerate([(0.8, 0.4), (0.1, 0.6)]):
        row = rollout(number, "p1")
        labels = [label(row, metric), label(row, proxy, "hate", role="reward")]
        publish_rows(tmp_path, f"rollouts {number}", number, rollouts=[row])
        publish_rows(tmp_path, f"labels {number}", number, labels=labels)
        kl = evaluation("kl_to_reference", number, 2.0 * number)
        publish_rows(tmp_path, f"evaluation {number}", number, evaluations=[kl])
    page = Page(write_report(tmp_path, tmp_path / "report.html").read_text())
    assert ["0", "policy-0", "0.000", "", "0.800", "0.400", "", "-0.400"] in page.rows
    assert [
        "1",
        "policy-1reward up, judges worse",
        "2.000",
        "",
        "0.100",
        "0.600",
        "",
        "+0.500",
    ] in (page.rows)
    assert "Round 1: the reward improved and other judges disagree." in page.text


def test_a_number_and_every_file_can_be_traced(html: str, shared_warehouse: Path) -> None:
    assert "roundhouse lineage WAREHOUSE --round 2 --metric toxicity_rate --labeler meter" in html
    page = Page(write_report(shared_warehouse, shared_warehouse.parent / "r.html").read_text())
    listed = [(cells[0], cells[2]) for cells in page.rows if cells[0].endswith(".parquet")]
    files = Ledger(open_store(shared_warehouse, read_only=True)).files()
    assert listed == sorted((file.path, file.sha256) for file in files)


def test_a_remote_warehouse_is_named_without_its_settings(s3_root: str, tmp_path: Path) -> None:
    publish_rows(s3_root, "prompts", prompts=[prompt("p1")])
    page = write_report(s3_root, tmp_path / "report.html").read_text()
    assert f"<code>{s3_root.partition('?')[0]}</code>" in page
    assert "endpoint_url" not in page


def test_texts_of_models_are_escaped(html: str) -> None:
    assert ATTACK not in html
    assert "&lt;script&gt;document.title" in html
    assert ATTACK in Page(html).text
    assert "script" not in {tag for tag, _ in Page(html).tags}


def test_nothing_is_fetched_from_outside(html: str) -> None:
    for tag, attributes in Page(html).tags:
        for name in ("src", "href", "xlink:href", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, name)
    assert not re.search(r"url\((?!#)|@import", html)
    assert "default-src 'none'" in html


def test_the_chart_is_named_described_and_follows_the_page_colors(html: str) -> None:
    svg = html[html.index("<svg") : html.index("</svg>") + 6]
    root = ET.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "chart-title chart-desc"
    assert root.find(f"{space}title").text == "Toxicity on the hold-out prompts by round"
    description = root.find(f"{space}desc").text
    assert "metric labeler meter, round 0: 50.0% (15.0% to 85.0%)" in description
    assert "reward labeler $hate_{<b>, round 2: 100.0%" in description
    assert root.get("viewBox")
    assert root.get("width") is None
    assert "currentColor" in svg
    texts = "".join(text for element in root.iter(f"{space}text") for text in element.itertext())
    assert "metric: meter" in texts
    assert "reward: $hate_{<b>" in texts


def test_an_empty_warehouse_and_an_older_version_have_a_report(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty = write_report(tmp_path / "empty", tmp_path / "empty.html").read_text()
    assert "nothing is published yet" in empty
    assert "No hold-out completion has a toxicity score yet." in empty
    root = small_warehouse(tmp_path / "night")
    older = write_report(root, tmp_path / "older.html", as_of=2).read_text()
    assert "version 2, committed" in older
    assert [row[0] for row in Page(older).rows if row[1:3] == ["meter", "metric"]] == ["0"]


def test_the_same_version_gives_the_same_page(shared_warehouse: Path, tmp_path: Path) -> None:
    first = write_report(shared_warehouse, tmp_path / "a.html").read_bytes()
    assert write_report(shared_warehouse, tmp_path / "b.html").read_bytes() == first


def test_a_wrong_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        write_report(tmp_path / "typo", tmp_path / "report.html")


def test_a_browser_shows_chart_and_text_and_runs_nothing(html: str, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs `chromium` on the PATH")
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
    ]
    done = subprocess.run(
        [*command, "--dump-dom", (tmp_path / "report.html").as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "<title>Roundhouse report: night</title>" in done.stdout
    assert "<title>owned</title>" not in done.stdout
    assert ATTACK in Page(done.stdout).text
    assert prompt("p1")["prompt_id"] in done.stdout
