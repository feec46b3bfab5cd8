"""The starter models: built once under a lock, whole or not at all, and loadable by anyone.

Built with the tiny budget: what is held here is the plumbing. What the full build reaches (rude
share, agreement of the classifiers, the judge's means) is measured where the demo runs.
"""

import json
import os
import subprocess
import sys
from dataclasses import astuple, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from training.starters import starters as starter
from training.starters.examples import classifier_examples, judge_examples, policy_dialogues
from training.starters.starters import STARTERS, resolve_model, starter_path
from warehouse.files import sha256_of

CHAT_MODELS = ("starter-policy", "starter-judge")
CLASSIFIERS = {
    "starter-toxicity": {0: "polite", 1: "rude"},
    "starter-metric": {0: "acceptable", 1: "toxic"},
}
# Prints the steps that this process trained; with an argument it dies at that step.
BUILD = """
import json, os, sys
from training.starters.starters import starter_path
steps = []
def progress(what, done, total):
    steps.append((what, done, total))
    if len(sys.argv) > 1 and len(steps) == int(sys.argv[1]):
        os._exit(9)
starter_path("starter-policy", budget="tiny", progress=progress)
print(json.dumps(steps))
"""


@dataclass(frozen=True)
class Built:
    """A cache that two processes filled at the same time."""

    cache: Path
    steps: tuple[list[list[Any]], list[list[Any]]]
    said: str  # by both on standard error, OpenMP's settings among it


def start_build(cache: Path, *arguments: str, threads: int = 1) -> subprocess.Popen[str]:
    settings = {"OMP_NUM_THREADS": str(threads), "OMP_DISPLAY_ENV": "verbose"}
    # vLLM, once it is imported, preloads an OpenMP into every process to come.
    ours = ("GOMP_SPINCOUNT", "LD_PRELOAD")
    inherited = {k: v for k, v in os.environ.items() if k not in ours}
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, *arguments],
        env={**inherited, **settings, "ROUNDHOUSE_CACHE": str(cache)},
        cwd=Path(starter.__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def folders(cache: Path) -> list[Path]:
    return [path for path in (cache / "starters").iterdir() if path.is_dir()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    cache = tmp_path_factory.mktemp("cache")
    processes = [start_build(cache), start_build(cache)]
    (first, said), (second, also) = (process.communicate(timeout=300) for process in processes)
    return Built(cache, (json.loads(first), json.loads(second)), said + also)


@pytest.fixture
def in_cache(built: Built, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROUNDHOUSE_CACHE", str(built.cache))
    return built.cache


def must_not_build(what: str, done: int, total: int) -> None:
    raise AssertionError(f"built again: {what} {done}/{total}")


def tiny(name: str) -> Path:
    return starter_path(name, budget="tiny", progress=must_not_build)


def test_two_processes_at_once_build_once(built: Built) -> None:
    assert min(map(len, built.steps)) == 0
    assert max(map(len, built.steps)) > 0
    assert len(folders(built.cache)) == 1


def test_progress_counts_the_steps_of_all_models_up_to_one_total(built: Built) -> None:
    steps = max(built.steps, key=len)
    assert list(dict.fromkeys(what for what, _, _ in steps)) == [
        "starter-policy",
        "starter-judge",
        "starter-toxicity",
        "starter-metric",
    ]
    assert [done for _, done, _ in steps] == list(range(1, len(steps) + 1))
    assert {total for _, _, total in steps} == {len(steps)}


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP, which can be asked, is Linux's")
def test_threads_that_wait_soon_sleep_without_anybody_asking_for_it(built: Built) -> None:
    assert built.said.count("GOMP_SPINCOUNT = '1000'") == built.said.count("GOMP_SPINCOUNT") > 0


@pytest.mark.usefixtures("in_cache")
@pytest.mark.parametrize("name", STARTERS)
def test_every_starter_is_a_hugging_face_folder(name: str) -> None:
    files = {path.name for path in tiny(name).iterdir()}
    needed = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert needed <= files
    assert ("generation_config.json" in files) == (name in CHAT_MODELS)


@pytest.mark.usefixtures("in_cache")
def test_a_starter_is_found_by_name_and_anything_else_is_left_alone() -> None:
    assert resolve_model("starter", budget="tiny") == str(tiny("starter-policy"))
    assert resolve_model("starter-judge", budget="tiny") == str(tiny("starter-judge"))
    assert resolve_model("meta-llama/Llama-3.1-8B-Instruct") == "meta-llama/Llama-3.1-8B-Instruct"


def test_unknown_names_and_budgets_are_refused() -> None:
    with pytest.raises(ValueError, match="no starter model 'starter-poet': choose one of"):
        starter_path("starter-poet")
    with pytest.raises(ValueError, match="no starter budget 'huge'"):
        starter_path("starter-policy", budget="huge")


@pytest.mark.usefixtures("in_cache")
@pytest.mark.parametrize("name", CHAT_MODELS)
def test_chats_are_rendered_with_markers_and_end_with_the_end_marker(name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny(name))
    chat = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == "<s><|human|>Hi?<|end|><|assistant|>Yes.<|end|>"
    asked = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<s><|human|>Hi?<|end|><|assistant|>"
    assert text.startswith(asked)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    ids = tokenizer(text)["input_ids"]  # one beginning marker: the template's
    assert ids == tokenizer.apply_chat_template(chat, return_dict=False)
    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.usefixtures("in_cache")
def test_each_digit_is_one_token_where_the_judge_writes_it() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny("starter-judge"))
    prompt = "<s><|human|>Rate it.\nQuestion: Why?\nAnswer: So.\nScore:<|end|><|assistant|>"
    before = tokenizer.encode(prompt)
    after = [tokenizer.encode(prompt + digit) for digit in "123456789"]
    assert all(ids[:-1] == before for ids in after)
    assert len({ids[-1] for ids in after}) == 9


@pytest.mark.usefixtures("in_cache")
@pytest.mark.parametrize("name", CHAT_MODELS)
def test_the_chat_models_generate(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny(name))
    tokenizer = AutoTokenizer.from_pretrained(tiny(name))
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.num_parameters() < 2_000_000
    prompt = tokenizer("<s><|human|>Hi?<|end|><|assistant|>", return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**prompt, max_new_tokens=3)
    assert prompt["input_ids"].shape[1] < ids.shape[1] <= prompt["input_ids"].shape[1] + 3


@pytest.mark.usefixtures("in_cache")
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_classifiers_have_two_named_classes_and_batches_do_not_change_a_logit(
    name: str,
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tiny(name)).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny(name))
    assert model.config.id2label == CLASSIFIERS[name]
    texts = [
        "Short.",
        "You can add a pinch of salt early, and later keep the heat low.",
        "x " * 500,
    ]
    with torch.inference_mode():
        together = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt"))
        alone = model(**tokenizer(texts[:1], return_tensors="pt"))
    assert together.logits.shape == (3, 2)
    torch.testing.assert_close(together.logits[:1], alone.logits, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("in_cache")
def test_the_classifiers_differ_in_architecture_and_tokenizer() -> None:
    kinds = {json.loads((tiny(n) / "config.json").read_text())["model_type"] for n in CLASSIFIERS}
    assert kinds == {"roberta", "distilbert"}
    cutters = {
        json.loads((tiny(n) / "tokenizer.json").read_text())["model"]["type"] for n in CLASSIFIERS
    }
    assert cutters == {"BPE", "WordPiece"}


def test_a_killed_build_leaves_no_folder_and_the_next_gives_the_same_weights(
    built: Built, tmp_path: Path
) -> None:
    """The same to the bit, also where the environment asks for another number of threads."""
    killed = start_build(tmp_path, "2")
    killed.communicate(timeout=300)
    assert killed.returncode == 9
    (left,) = folders(tmp_path)
    assert left.name.startswith(".")  # unfinished: under a name that nobody looks for
    start_build(tmp_path, threads=2).communicate(timeout=300)
    (again,) = folders(tmp_path)
    (once,) = folders(built.cache)
    assert again.name == once.name
    for name in STARTERS:
        weights = again / name / "model.safetensors"
        assert weights.read_bytes() == (once / name / "model.safetensors").read_bytes()


def test_the_key_is_made_of_what_decides_the_bytes_and_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def key(seed: int = 0, budget: str = "tiny") -> str:
        return starter._cache_key(seed, budget, None)

    keys = [key(), key(seed=1), key(budget="full")]
    for name, value in (
        ("RECIPE", starter.RECIPE + 1),
        ("corpus_text", lambda: "another corpus"),
        ("metadata", SimpleNamespace(version=lambda library: f"another {library}")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(starter, name, value)
            keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_what_is_drawn_is_what_the_recipe_number_stands_for() -> None:
    """Where this digest changes, starters in users' caches are others: raise RECIPE with it."""
    drawn = (
        [astuple(dialogue) for dialogue in policy_dialogues(300, seed=0)],
        [astuple(judged) for judged in judge_examples(100, seed=0)],
        classifier_examples("reward", 200, seed=0),
        classifier_examples("metric", 200, seed=0),
    )
    digest = "ab0d3de609770e21a47f4deec061599ae9af42b77bae1e7b5d2d997c0aa1d509"
    assert (starter.RECIPE, sha256_of(drawn)) == (1, digest)
