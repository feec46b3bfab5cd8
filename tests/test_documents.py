"""The READMEs against the code: tables, marts, commands, options, maps, paths, configurations."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest
import typer
import yaml

from pipeline.cli import app
from pipeline.commands.audit import audit_app
from pipeline.config import RunConfig
from pipeline.configs.loading import load_config, shipped_configs
from tests.benchmarks.__main__ import BENCHMARKS
from tests.documents import (
    DOCUMENTS,
    README,
    ROOMS,
    ROOT,
    blocks,
    commands,
    names_and_sentences,
    room_map,
    tables,
    text_of,
)
from warehouse.catalog.catalog import connect, query_names
from warehouse.schemas import TABLES

S3 = "s3://bucket/prefix?region=eu-central-1"
MINIO = "s3://nights/demo?endpoint_url=http://127.0.0.1:9000&region=us-east-1&profile=minio"
REAL_TEXT = "--set prompts.path=DATA/hh-rlhf/train.jsonl.gz --set policy.starter_text=DATA"
# What no test runs: a new line here is a decision. `make` sets up an environment of its own, and
# CI calls it; data: files that are not ours to ship; quiet cores: figures, a minute to hours each.
NOT_RUN = {
    ("make", "make demo"),
    ("make", "make test"),
    ("make", "source .venv/bin/activate"),
    ("gpu", 'pip install ".[gpu]"'),
    ("gpu", "roundhouse run hh-llama --set warehouse=runs/hh --dry-run"),
    ("gpu", "roundhouse run hh-llama --set warehouse=runs/hh"),
    ("gpu", "roundhouse nightly hh-llama --set warehouse=runs/hh"),
    ("gpu", "roundhouse run hh-flan-t5"),
    ("gpu", "roundhouse run hh-flan-t5 --set policy.model=runs/my-t5"),
    ("cloud", "export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=..."),
    ("cloud", f"roundhouse run demo --set 'warehouse={S3}'"),
    ("cloud", f"roundhouse sql '{S3}' 'from toxicity_by_round'"),
    ("cloud", f"roundhouse run demo --set 'warehouse={MINIO}'"),
    ("data", f"roundhouse run hh-davidson {REAL_TEXT}"),
    ("quiet cores", "python -m tests.benchmarks labels"),
    ("quiet cores", "make bench"),
    ("quiet cores", "make bench-learning"),
}
LEDGER_VIEWS = {"commits", "files"}


def test_the_readme_is_short_and_has_the_two_commands():
    text = text_of(README)
    assert len(text.splitlines()) <= 250
    assert "make demo" in text
    assert "make test" in text


def test_what_is_not_run_is_what_this_list_says():
    marked = {(b.need, c.line.split("#")[0].strip()) for b, c in commands(*DOCUMENTS) if b.need}
    assert marked == NOT_RUN


def test_tables_are_those_of_the_schemas():
    assert names_and_sentences("warehouse/README.md", "### Tables") == {
        name: table.grain for name, table in TABLES.items()
    }


def test_marts_are_those_of_the_catalog(tmp_path: Path):
    views = "select view_name, comment from duckdb_views() where not internal"
    found = dict(connect(tmp_path).sql(views).fetchall())
    marts = {name: comment for name, comment in found.items() if name not in TABLES}
    marts["why"] = query_names()["why"]  # a question about one rollout cannot be a view
    assert names_and_sentences("warehouse/README.md", "### Marts") == marts
    assert marts.keys() >= LEDGER_VIEWS


def test_audit_questions_are_those_of_the_catalog():
    marts = names_and_sentences("warehouse/README.md", "### Marts")
    questions = {name: text for name, text in query_names().items() if name not in marts}
    assert names_and_sentences("warehouse/README.md", "### Audit questions") == questions


def documented_commands() -> dict[str, str]:
    """Command -> the cell that documents it, of the table in README.md; `a|b` are two commands."""
    found: dict[str, str] = {}
    for usage, _ in tables(README, "## Commands"):
        words = usage.strip("`").split()
        assert words[0] == "roundhouse"
        group = f"{words[1]} " if words[1] == "audit" else ""
        for name in words[2 if group else 1].split("|"):
            assert group + name not in found
            found[group + name] = usage
    return found


def registered_commands() -> dict[str, click.Command]:
    root, audit = typer.main.get_command(app), typer.main.get_command(audit_app)
    found = {name: command for name, command in root.commands.items() if name != "audit"}
    return found | {f"audit {name}": command for name, command in audit.commands.items()}


def test_the_table_of_commands_has_every_command():
    assert documented_commands().keys() == registered_commands().keys()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_in_commands_exist(document: str):
    known = registered_commands()
    lines = [(block.place, command.line) for block, command in commands(document)]
    if document == README:
        lines += [(document, usage.strip("`")) for usage in documented_commands().values()]
    for place, line in lines:
        ours = line.split(" -- ")[0].split("#")[0]
        found = re.search(r"roundhouse (audit )?([a-z|-]+)", ours)
        if found is None:
            continue
        options = set(re.findall(r"(?<=[ \[])--[a-z-]+", ours))
        for name in found[2].split("|"):
            command = known[(found[1] or "") + name]
            names = {opt for param in command.params for opt in param.opts} | {"--help", "--debug"}
            spread = "|" in found[2]  # options of a row for several commands: each has some
            assert spread or options <= names, f"{place}: {name} has no {options - names}"


@pytest.mark.parametrize("room", ROOMS)
def test_the_map_of_a_room_names_its_folders(room: str):
    named = room_map(f"{room}/README.md")
    folders = {name.rstrip("/") for name in named if name.endswith("/") and name.count("/") == 1}
    there = {path.name for path in (ROOT / room).iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == there
    assert [name for name in named if not (ROOT / room / name).exists()] == []


def test_the_map_of_the_benchmarks_names_them_all():
    assert set(room_map("tests/benchmarks/README.md")) >= BENCHMARKS.keys()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths_lead_somewhere(document: str):
    text = text_of(document)
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    paths = re.findall(rf"`((?:{'|'.join((*ROOMS, 'tests'))})/[\w/.-]+)`", text)
    missing = [link for link in links if not (ROOT / document).parent.joinpath(link).exists()]
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_to_headings_find_them(document: str):
    for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text_of(document)):
        other = (ROOT / document).parent / link if link else ROOT / document
        headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in headings}
        assert anchor in anchors, f"{document}: {link}#{anchor}"


def test_the_changelog_is_the_end_of_the_pipelines_readme():
    headings = re.findall(r"^## (.+)$", text_of("pipeline/README.md"), re.MULTILINE)
    assert headings[-1] == "Changelog"


YAML = [block for document in DOCUMENTS for block in blocks(document) if block.language == "yaml"]


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.place)
def test_yaml_is_part_of_a_configuration(block, tmp_path: Path):
    """In the place of the demo's own keys; labelers beside the demo's, or instead of a namesake."""
    whole = yaml.safe_load(shipped_configs()["demo"].read_text())
    part = yaml.safe_load(block.text)
    names = [labeler["name"] for labeler in part.get("labelers", ())]
    kept = [labeler for labeler in whole["labelers"] if labeler["name"] not in names]
    merged = {**whole, **part, "labelers": [*part.get("labelers", ()), *kept]}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(merged))
    assert isinstance(load_config(str(path)), RunConfig)


def test_the_report_is_written_after_a_night_that_ended_with_any_code(tmp_path: Path):
    """Exit codes 3 and 4 are the nights whose report one wants to read."""
    lines = [b.text for d in DOCUMENTS for b in blocks(d) if b.language == "crontab"]
    assert lines
    (tmp_path / ".venv/bin").mkdir(parents=True)
    program = tmp_path / ".venv/bin/roundhouse"
    program.write_text('#!/bin/sh\necho "$1" >> called\n[ "$1" = nightly ] && exit 4\nexit 0\n')
    program.chmod(0o755)
    for line in lines:
        (tmp_path / "called").write_text("")
        command = line.split(maxsplit=5)[5]
        folder = re.search(r"cd (\S+)", command)
        assert folder is not None
        shell = command.replace(folder[1], str(tmp_path))
        subprocess.run(["bash", "-c", shell], check=False, cwd=tmp_path)
        assert (tmp_path / "called").read_text().split() == ["nightly", "report"]
