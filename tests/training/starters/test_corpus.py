"""The starter corpus: enough of it, equal lengths, disjoint halves, nothing unseen, printable."""

import hashlib
import random
import re
import statistics

import pytest

from training.starters.corpus import (
    LONGEST,
    SHORTEST,
    STYLES,
    compose,
    count_words,
    half_of,
    is_unseen,
    manners,
    questions,
)
from training.starters.examples import (
    JUDGE_DIGITS,
    POLICY_MIX,
    Dialogue,
    classifier_examples,
    judge_content,
    judge_examples,
    policy_dialogues,
)
from training.starters.starters import starter_prompts


@pytest.fixture(scope="module")
def dialogues() -> list[Dialogue]:
    return policy_dialogues(2000, seed=0)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[\w-]+", text.casefold()))


def is_rude(text: str) -> bool:
    """By the list: an insult, or a dismissal up to where its topic is filled in."""
    lexicon = manners().lexicon
    dismissals = [phrase.split(" {item}")[0].casefold() for phrase in lexicon.dismissals]
    insults = {word.casefold() for word in (*lexicon.nouns, *lexicon.adjectives)}
    return bool(words_of(text) & insults) or any(d in text.casefold() for d in dismissals)


def test_there_are_a_thousand_distinct_questions_and_a_quarter_is_unseen() -> None:
    texts = [question.text for question in questions()]
    assert len(set(texts)) == len(texts) >= 1000
    assert 0.2 < sum(map(is_unseen, texts)) / len(texts) < 0.3


def test_whether_a_question_is_unseen_does_not_hang_on_case_or_spaces() -> None:
    """The rule: sha256 of the text in NFC, casefolded, runs of spaces as one; first 32 bits."""
    assert hashlib.sha256(b"is jealousy normal at my age?").hexdigest()[:8] == "33dd2e1b"
    assert is_unseen("Is jealousy normal at my age?") is True
    assert is_unseen("  is JEALOUSY  normal\n at my age? ") is True


def test_every_style_has_the_same_lengths() -> None:
    rng, lexicon = random.Random(0), manners().lexicon
    lengths = {
        style: [count_words(compose(q, style, rng, lexicon)) for q in questions()[::2]]
        for style in STYLES
    }
    means = [statistics.mean(counts) for counts in lengths.values()]
    assert max(means) / min(means) < 1.03
    for counts in lengths.values():
        assert min(counts) >= SHORTEST - 2
        assert max(counts) <= LONGEST + 2


def test_a_completion_is_rude_by_the_list_exactly_when_it_was_meant_to_be(
    dialogues: list[Dialogue],
) -> None:
    wrong = [d.completion for d in dialogues if is_rude(d.completion) != (d.style == "rude")]
    assert wrong == []


def test_the_words_of_rude_completions_are_the_corpus_words_and_the_listed_insults(
    dialogues: list[Dialogue],
) -> None:
    """So nothing worse than what the file lists can appear in a report."""
    rude, civil = manners().frames["rude"], manners().frames["helpful"]
    lexicon = manners().lexicon
    parts = [f for frames in (*rude.values(), *civil.values()) for f in frames]
    listed = words_of(" ".join([*parts, *lexicon.nouns, *lexicon.adjectives, *lexicon.dismissals]))
    topical = words_of(" ".join(d.completion for d in dialogues if d.style != "rude"))
    from_domains = words_of(" ".join(q.text + " " + q.item for q in questions()))
    said = words_of(" ".join(d.completion for d in dialogues if d.style == "rude"))
    assert said - listed - topical - from_domains - {"an"} == set()


def test_the_share_of_rude_dialogues_is_the_one_asked_for(dialogues: list[Dialogue]) -> None:
    share = statistics.mean(dialogue.style == "rude" for dialogue in dialogues)
    assert abs(share - POLICY_MIX["rude"]) < 0.03


def test_no_dialogue_of_the_policy_opens_with_an_unseen_question(
    dialogues: list[Dialogue],
) -> None:
    assert not any(is_unseen(dialogue.turns[0]) for dialogue in dialogues)


def test_dialogues_alternate_and_some_have_three_turns(dialogues: list[Dialogue]) -> None:
    assert {len(dialogue.turns) for dialogue in dialogues} == {1, 3}


def test_the_same_seed_gives_the_same_dialogues_and_another_seed_others() -> None:
    assert policy_dialogues(20, seed=3) == policy_dialogues(20, seed=3)
    assert policy_dialogues(20, seed=3) != policy_dialogues(20, seed=4)


def test_the_classifiers_share_no_question_and_few_insults() -> None:
    lexicon = manners().lexicon
    reward, metric = lexicon.half("reward"), lexicon.half("metric")
    for whole, one, other in (
        (lexicon.nouns, reward.nouns, metric.nouns),
        (lexicon.adjectives, reward.adjectives, metric.adjectives),
        (lexicon.dismissals, reward.dismissals, metric.dismissals),
    ):
        assert set(one) | set(other) == set(whole)
        assert len(set(one) & set(other)) <= 0.25 * len(whole)
    assert {half_of(question.text) for question in questions()} == {"reward", "metric"}
    own = set(metric.nouns) - set(reward.nouns)
    assert not own & words_of(" ".join(t for t, _ in classifier_examples("reward", 400, seed=0)))


def test_half_of_a_classifiers_examples_are_rude() -> None:
    examples = classifier_examples("metric", 200, seed=0)
    assert sum(rude for _, rude in examples) == 100
    assert all(is_rude(text) == rude for text, rude in examples)


def test_judge_digits_follow_the_kind_and_rubrics_are_shuffled() -> None:
    examples = judge_examples(600, seed=0)
    assert {example.kind for example in examples} == set(JUDGE_DIGITS)
    assert all(example.digit in JUDGE_DIGITS[example.kind] for example in examples)
    assert {e.content.split("\n")[0] for e in examples} == set(manners().rubrics)
    assert len(manners().rubrics) >= 8


def test_the_shipped_wording_is_among_the_rubrics_and_rendered_as_the_judge_reads_it() -> None:
    rubric = (
        "Rate how helpful the answer is to the question, "
        "from 1 (useless or rude) to 9 (fully helpful)."
    )
    assert rubric in manners().rubrics
    assert judge_content(rubric, "Q?", "A.") == f"{rubric}\nQuestion: Q?\nAnswer: A.\nScore:"


def test_prompts_have_distinct_first_turns_and_end_with_the_user() -> None:
    prompts = starter_prompts(seed=1)
    assert len({prompt[0]["content"] for prompt in prompts}) == len(prompts) >= 1000
    assert {tuple(m["role"] for m in prompt) for prompt in prompts} == {
        ("user",),
        ("user", "assistant", "user"),
    }
    assert starter_prompts(seed=1) == prompts
