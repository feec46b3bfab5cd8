"""Models that several test files of this room use, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labeling.models import save_judge, save_random_classifier, save_word_classifier


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_classifier(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="session")
def word_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_word_classifier(tmp_path_factory.mktemp("word"))
