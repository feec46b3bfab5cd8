"""Real text for starters: who may read what, and that the data's known defects are survived.

The small data set here is written for the test; where the published one is there, the same rules
are held on it too.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.configs.loading import load_config
from pipeline.errors import ConfigError
from pipeline.ingest.messages import (
    MalformedPrompt,
    first_turn_sha256,
    is_holdout,
    parse_transcript,
)
from training.starters.corpus import UNSEEN_SHARE
from training.starters.real_text import (
    HH_TEST,
    HH_TRAIN,
    STATEMENTS,
    TWEETS,
    StarterTextError,
    classifier_texts,
    clean_tweet,
    owner_of,
    parse_turns,
    policy_texts,
    real_text_sha256,
)
from training.starters.starters import starter_path

REAL = Path(__file__).parents[4] / "shared/data"
QUESTIONS = [f"How do I look after plant number {number}?" for number in range(120)]
RUDE = [f"you are a total nuisance and number {number} of them too" for number in range(80)]
CIVIL = [f"what a fine day number {number} this has been so far" for number in range(40)]


def transcript(*turns: str) -> str:
    roles = ("Human", "Assistant")
    return "".join(f"\n\n{roles[i % 2]}: {turn}" for i, turn in enumerate(turns))


def write_pairs(path: Path, questions: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for question in questions:
            answers = {
                "chosen": transcript(question, f"Water it now and then: {question}"),
                "rejected": transcript(question, f"I would not know about {question}"),
            }
            file.write(json.dumps(answers) + "\n")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_pairs(folder / HH_TRAIN, QUESTIONS[:90])
    write_pairs(folder / HH_TEST, QUESTIONS[90:])
    (folder / TWEETS).parent.mkdir()
    with (folder / TWEETS).open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["", "class", "tweet"])
        rows.writerows([i, i % 2, f'!!! RT @some_one: "{text}'] for i, text in enumerate(RUDE))
        rows.writerows([i, 2, f"{text} https://t.co/x"] for i, text in enumerate(CIVIL))
        rows.writerow([0, 0, "RT @a: nuisance"])  # too short to be an answer
    (folder / STATEMENTS).parent.mkdir()
    scores = [1.0, 2.5, 3.0, 3.5, 5.0]
    statements = [
        {"text": f"statement {i} rated {score}_x000D_", "toxicity_score": score}
        for i in range(8)
        for score in scores
    ]
    (folder / STATEMENTS).write_text(json.dumps(statements))
    return folder


@pytest.fixture(params=["small", "real"])
def data(request: pytest.FixtureRequest, small: Path) -> Path:
    if request.param == "small":
        return small
    if not REAL.is_dir():
        pytest.skip("../shared/data is absent")
    return REAL


def test_the_three_owners_share_no_text(data: Path):
    policy = {d.completion for d in policy_texts(data, tweets=10_000, seed=0) if d.style == "tweet"}
    reward = dict(classifier_texts(data, "reward", seed=0))
    metric = dict(classifier_texts(data, "metric", seed=0))
    assert policy
    assert not reward.keys() & metric.keys()
    assert not policy & (reward.keys() | metric.keys())
    for examples in (reward, metric):
        assert 0.1 < sum(examples.values()) / len(examples) < 0.9


def test_a_copy_of_a_tweet_has_the_same_owner():
    owners = [owner_of(text) for text in RUDE + CIVIL]
    assert owners == [owner_of(text.upper()) for text in RUDE + CIVIL]
    assert 0.35 < owners.count("policy") / len(owners) < 0.65
    assert {"reward", "metric"} < set(owners)


def test_no_dialogue_opens_with_a_question_that_may_be_held_out(data: Path):
    opened = {dialogue.turns[0] for dialogue in policy_texts(data, tweets=100, seed=0)}
    assert opened
    for question in opened:
        digest = first_turn_sha256([{"role": "user", "content": question}])
        assert not is_holdout(digest, UNSEEN_SHARE), question


def test_every_dialogue_is_answered(data: Path):
    dialogues = policy_texts(data, tweets=20, seed=0)
    assert sum(dialogue.style == "tweet" for dialogue in dialogues) == 20
    for dialogue in dialogues:
        assert len(dialogue.turns) % 2 == 1
        assert dialogue.completion


def test_texts_are_drawn_by_seed(small: Path):
    assert policy_texts(small, tweets=9, seed=1) == policy_texts(small, tweets=9, seed=1)
    assert policy_texts(small, tweets=9, seed=1) != policy_texts(small, tweets=9, seed=2)
    first, second = (classifier_texts(small, "reward", seed=seed) for seed in (1, 2))
    assert first == classifier_texts(small, "reward", seed=1)
    assert first != second


def test_statements_that_divide_their_raters_are_left_out(small: Path):
    examples = dict(classifier_texts(small, "reward", seed=0))
    examples |= classifier_texts(small, "metric", seed=0)
    rated = {text: toxic for text, toxic in examples.items() if text.startswith("statement")}
    assert len(rated) == 32
    for text, toxic in rated.items():
        score = float(text.split()[-1])
        assert score != 3.0
        assert toxic == (score >= 3.5)


@pytest.mark.parametrize(
    ("tweet", "cleaned"),
    [
        ('!!! RT @mleew17: boy &amp; girl "dats cold', 'boy & girl "dats cold'),
        ("look http://t.co/a1 at @you_2 #this &#128514;", "look at this"),
        ("START nothing\nhere_x000D_", "START nothing here"),
        ("RT @a: @b https://t.co/z", ""),
    ],
)
def test_a_tweet_is_cleaned(tweet: str, cleaned: str):
    assert clean_tweet(tweet) == cleaned


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("\n\nHuman: a\n\nb\n\nAssistant: c", ("a\n\nb", "c")),
        ("\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nAssistant: d", ("a\n\nb", "c\n\nd")),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", ("a", "b", "c")),
        ("\n\nAssistant: a", ()),
        ("Human: a", ()),
        ("", ()),
    ],
)
def test_a_transcript_is_read_despite_its_defects(text: str, turns: tuple[str, ...]):
    assert parse_turns(text) == turns


def test_transcripts_open_as_the_prompts_of_a_round_do():
    if not REAL.is_dir():
        pytest.skip("../shared/data is absent")
    compared = 0
    with gzip.open(REAL / HH_TRAIN, "rt", encoding="utf-8") as file:
        for line in file:
            text = json.loads(line)["chosen"]
            try:
                prompt = parse_transcript(text)
            except MalformedPrompt:
                continue
            compared += 1
            assert parse_turns(text)[0] == prompt[0]["content"]
    assert compared > 1_000


def test_a_missing_file_is_named(small: Path, tmp_path: Path):
    assert real_text_sha256(small) == real_text_sha256(small)
    with pytest.raises(StarterTextError, match=r"train\.jsonl\.gz: no such file; the folder must"):
        starter_path("starter-policy", text=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        (HH_TRAIN, b"plain text", r"BadGzipFile.*chosen and rejected"),
        (HH_TRAIN, gzip.compress(b'{"text": "a"}\n'), r"KeyError: 'chosen'"),
        (HH_TRAIN, gzip.compress(b""), "holds no transcript that may be trained on"),
        (TWEETS, b"label,text\n0,a\n", "KeyError.*the columns class and tweet"),
        (TWEETS, b"\xff\xfe", "UnicodeDecodeError"),
        (STATEMENTS, b"[", "JSONDecodeError.*text and toxicity_score"),
        (STATEMENTS, b'{"rows": 1}', "TypeError"),
    ],
)
def test_a_file_of_another_form_is_named_with_what_it_must_hold(
    small: Path, tmp_path: Path, name: str, content: bytes, what: str
):
    shutil.copytree(small, tmp_path / "data")
    (tmp_path / "data" / name).write_bytes(content)

    def read() -> None:
        policy_texts(tmp_path / "data", tweets=9, seed=0)
        classifier_texts(tmp_path / "data", "reward", seed=0)

    with pytest.raises(StarterTextError, match=what) as found:
        read()
    assert name in str(found.value)
    assert "\n" not in str(found.value)
    assert found.value.exit_code == 2


def test_there_is_no_judge(small: Path):
    with pytest.raises(StarterTextError, match="helpfulness cannot be learnt"):
        starter_path("starter-judge", text=small)
    with pytest.raises(ConfigError, match=r"labelers\.helpful-judge: helpfulness cannot be learnt"):
        load_config("demo", [f"policy.starter_text={small}"])


def test_policy_and_classifiers_are_built_from_the_text(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # In another process: this one stays light, and torch as it is.
    monkeypatch.setenv("ROUNDHOUSE_CACHE", str(tmp_path))
    code = (
        "import sys; from pathlib import Path; "
        "from training.starters.starters import starter_path; "
        "starter_path('starter-policy', budget='tiny', text=Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(small)], check=True, capture_output=True)

    def must_not_build(what: str, done: int, total: int) -> None:
        raise AssertionError(f"built again: {what} {done}/{total}")

    for name in ("starter-policy", "starter-toxicity", "starter-metric"):
        found = starter_path(name, budget="tiny", text=small, progress=must_not_build)
        assert (found / "model.safetensors").is_file()
        assert (found / "tokenizer.json").is_file()
    policy = json.loads((found.parent / "starter-policy" / "config.json").read_text())
    assert policy["max_position_embeddings"] == 1024
    labels = json.loads((found.parent / "starter-metric" / "config.json").read_text())["id2label"]
    assert labels == {"0": "acceptable", "1": "toxic"}
