"""Whole nights on tiny models with the warehouse on S3: the same rows, policies kept, resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import night
from pipeline.commands.nights import _finish, status
from pipeline.errors import ConfigError
from pipeline.policies.models import POLICIES, find_model, keep_model, models_folder
from pipeline.policies.policies import base_policy, stored_policy
from tests.integration.nights import assert_same, keys
from tests.pipeline.judged import sql
from tests.pipeline.stages import test_rejected_night as tiny
from tests.pipeline.stages.test_rejected_night import ALWAYS, config
from tests.training.tiny import tiny_policy
from tests.warehouse import conftest as stores
from training.revision import policy_revision
from warehouse.errors import CorruptFile
from warehouse.ledger.ledger import Ledger
from warehouse.store import open_store
from warehouse.store.local_cache import local_folder

models, run = tiny.models, tiny.run  # fixtures
s3_endpoint, s3_root = stores.s3_endpoint, stores.s3_root


@pytest.fixture(scope="module")
def folders(run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same nights in a folder: after the first, and after the second."""
    base = tmp_path_factory.mktemp("folders")
    assert run(base / "two", 1, ALWAYS)[0] == night.DONE
    shutil.copytree(base / "two", base / "one")
    assert run(base / "two", 2, ALWAYS)[0] == night.DONE
    return base / "one", base / "two"


def test_nights_on_s3_by_two_machines_end_in_the_rows_of_a_folder(
    run, models, folders, s3_root: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    assert run(s3_root, 1, ALWAYS)[0] == night.DONE
    assert_same(folders[0], s3_root)
    training = Ledger(open_store(s3_root)).find("round=0/training")
    revision = training.meta["policy_revision"]
    listed = json.loads(training.meta["policy_files"])
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(listed)
    stored = open_store(s3_root).list("policies/")
    assert stored == [f"policies/{revision}/{name}" for name in sorted(listed)]

    # Another machine: nothing in its cache, the policy comes from the bucket.
    monkeypatch.setenv("ROUNDHOUSE_CACHE", str(tmp_path / "other"))
    assert run(s3_root, 2, ALWAYS)[0] == night.DONE
    assert_same(folders[1], s3_root)
    rounds = sql(s3_root, "from rounds order by round")
    assert [row["status"] for row in rounds] == ["completed", "completed"]
    here = models_folder(s3_root, POLICIES)
    assert here.is_relative_to(tmp_path / "other")
    for row in rounds:
        assert policy_revision(here / row["policy_revision_out"]) == row["policy_revision_out"]

    capsys.readouterr()
    status(s3_root)
    assert "round=2/evaluation" in capsys.readouterr().out
    _finish(config(models, s3_root), [])
    said = capsys.readouterr().out
    assert f"report     {local_folder(s3_root)}/report.html" in said
    assert f"roundhouse sql '{s3_root}' 'select * from toxicity_by_round'" in said
    page = (local_folder(s3_root) / "report.html").read_text()
    assert s3_root.partition("?")[0] in page
    assert "endpoint_url" not in page


class Killed(BaseException):
    """Stands for kill -9: nobody catches it."""


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Ends the process, as it were, right before a put whose key holds the given word."""
    from warehouse.store.s3 import S3Store

    real = S3Store._put_once

    def arm(word: str) -> None:
        def put_once(self, key, upload):
            if word in key:
                monkeypatch.setattr(S3Store, "_put_once", real)
                raise Killed(key)
            return real(self, key, upload)

        monkeypatch.setattr(S3Store, "_put_once", put_once)

    return arm


def test_a_night_killed_anywhere_resumes_on_s3(run, folders, s3_root: str, killed_at) -> None:
    for word in (
        "prompts/", "0000000002.json", "rewards/", "tokenizer.json", "train_use/", "evaluations/",
    ):  # fmt: skip
        killed_at(word)
        with pytest.raises(Killed, match=word):
            run(s3_root, 1, ALWAYS)
    assert run(s3_root, 1, ALWAYS)[0] == night.DONE
    assert_same(folders[0], s3_root)
    assert keys(s3_root) == keys(folders[0])


@pytest.fixture
def kept(s3_root: str, tmp_path: Path) -> str:
    """A policy on S3 that this machine has no copy of; its revision."""
    made = tiny_policy(tmp_path / "made")
    revision = policy_revision(made)
    keep_model(s3_root, POLICIES, made, revision)
    Ledger(open_store(s3_root)).append("first", [])
    shutil.rmtree(models_folder(s3_root, POLICIES))
    return revision


def test_a_policy_is_downloaded_once_and_whole(kept: str, s3_root: str) -> None:
    folder = find_model(s3_root, POLICIES, kept)
    assert policy_revision(folder) == kept
    (folder / "mark").write_text("here")
    assert find_model(s3_root, POLICIES, kept) == folder
    assert (folder / "mark").exists()
    assert [path.name for path in folder.parent.iterdir()] == [kept]


def test_a_policy_that_is_not_what_its_name_says_is_refused(kept: str, s3_root: str) -> None:
    store = open_store(s3_root)
    key = f"policies/{kept}/tokenizer.json"
    store.delete(key)
    with pytest.raises(CorruptFile, match=rf"policies/{kept}/ holds model \w+; restore"):
        find_model(s3_root, POLICIES, kept)
    store.delete(f"policies/{kept}/model.safetensors")
    with pytest.raises(CorruptFile, match=rf"policies/{kept}/ is no whole model"):
        find_model(s3_root, POLICIES, kept)
    assert list(models_folder(s3_root, POLICIES).iterdir()) == []


def test_a_file_that_the_training_listed_must_be_as_it_was(kept: str, s3_root: str) -> None:
    listed = json.dumps({"critic/critic.safetensors": "0" * 64})
    Ledger(open_store(s3_root)).append(
        "round=0/training", [], meta={"policy_revision": kept, "policy_files": listed}
    )
    with pytest.raises(CorruptFile, match=r"critic.*safetensors is missing or not what"):
        find_model(s3_root, POLICIES, kept)


def test_a_policy_uploaded_again_after_a_kill_keeps_what_is_there(
    s3_root: str, tmp_path: Path
) -> None:
    made = tiny_policy(tmp_path / "made")
    revision = policy_revision(made)
    (made / "critic.bin").write_bytes(b"of this attempt")
    open_store(s3_root).put(f"policies/{revision}/critic.bin", b"of a killed one")
    folder = keep_model(s3_root, POLICIES, made, revision)
    assert (folder / "critic.bin").read_bytes() == b"of a killed one"
    assert len(open_store(s3_root).list("policies/")) == len(list(folder.iterdir()))


def test_a_policy_that_is_gone_is_named_with_its_place(models, kept: str, s3_root: str) -> None:
    settings = config(models, s3_root)
    with pytest.raises(ConfigError, match=r"policy lost is not in s3://[\w/]+/policies; restore"):
        stored_policy(settings, "lost", base_policy(settings))
    assert stored_policy(settings, kept, base_policy(settings)).revision == kept
