"""What is loaded when: statistics where they are computed, engines where they run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Each takes half a second to four.
HEAVY = ("torch", "transformers", "vllm", "apache_beam", "scipy", "sklearn", "statsmodels",
         "krippendorff", "pandas", "openai", "boto3")  # fmt: skip
LIGHT = (
    "labeling.labelers.build", "labeling.engines.load", "labeling.engines.remote.answer_cache",
    "labeling.gate.checks", "labeling.gate.sentinels", "labeling.judges.written",
    "labeling.reviser.reviser", "labeling.rewards.reward", "labeling.trust.agreement",
    "labeling.trust.bias", "labeling.trust.calibration", "pipeline.suites.label_file",
)  # fmt: skip
# transformers takes scikit-learn, and with it scipy.stats, where it is installed; as missing, it
# shows that neither transformers nor this project needs it to label.
CLASSIFIER = """
import sys
for name in ("sklearn", "scipy.stats", "statsmodels", "vllm", "apache_beam"):
    sys.modules[name] = None
from labeling.labelers.build import build_labeler
from labeling.labelers.config import ClassifierConfig
from tests.labeling.subjects import subjects
config = ClassifierConfig(
    kind="classifier", name="hate", role="reward", criterion="toxicity", model=sys.argv[1],
    labels={"nothate": 0, "hate": 1}, self_test=(),
)
labeler = build_labeler(config, device="cpu", resolve=str)
print(labeler.label(subjects(["idiot", "good day"]))["status"].to_pylist())
"""


def said_by(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_module_loads_what_only_one_of_its_functions_needs():
    script = f"import sys, {', '.join(LIGHT)}\nprint([m for m in {HEAVY} if m in sys.modules])"
    assert said_by(script) == "[]"


def test_a_classifier_needs_neither_beam_nor_vllm_nor_statistics(word_folder: Path):
    assert said_by(CLASSIFIER, str(word_folder)) == "['ok', 'ok']"
