"""What labelling a file with a classifier imports: torch and transformers, and not the night."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tests.labeling.models import save_word_classifier

HEAVY = ("apache_beam", "vllm", "scipy.stats", "sklearn", "trl", "datasets")
# The stage as its process runs it, after what the fork server imports for it.
SCRIPT = """
import importlib, json, sys
from pathlib import Path
from pipeline.configs.loading import load_config
from pipeline.runtime.preloads import label_preloads
from pipeline.suites.label_file import label_texts, text_labelers
labelers, source, out, heavy = json.loads(sys.argv[1])
config = load_config("demo", [f"labelers=[{labelers}]", "reward.terms={words: {weight: -1.0}}"])
(labeler,) = text_labelers(config, ["words"])
for module in label_preloads([labeler]):
    importlib.import_module(module)
statuses = label_texts(config, labeler, Path(source), Path(out))
print(json.dumps([statuses, [name for name in heavy if name in sys.modules]]))
"""


def test_a_file_is_labelled_without_beam_vllm_or_statistics(tmp_path: Path):
    model = save_word_classifier(tmp_path / "model")
    words = "criterion: toxicity, kind: classifier, labels: {nothate: 0, hate: 1}, self_test: []"
    labelers = ", ".join(
        f"{{name: {name}, role: {role}, model: {folder}, {words}}}"
        for name, role, folder in (("words", "reward", model), ("metric", "metric", "another"))
    )
    source, out = tmp_path / "texts.jsonl", tmp_path / "labels.parquet"
    source.write_text('{"text": "good day"}\n{"text": "idiot"}\n')
    about = json.dumps([labelers, str(source), str(out), HEAVY])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, about], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    statuses, heavy = json.loads(done.stdout.splitlines()[-1])
    assert statuses == {"ok": 2}
    assert heavy == []
    good, bad = pq.read_table(out)["score"].to_pylist()
    assert good < 0.5 < bad
