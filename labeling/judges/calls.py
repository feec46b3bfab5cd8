"""Asks a writing engine about subjects, has each answer read, and asks once more where that mends.

The one mechanism of all that ask in messages and read what was written strictly: judges
(written.py) and the reviser. Not here: what is asked (asking.py, reviser/wording.py), what an
answer says (score.py, reviser/wording.py), rows (attempts.py), a call's own retries (engines/).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from labeling.engines.chat import ChatAnswer, ChatEngine, ChatRequest
from labeling.judges.attempts import Attempt
from labeling.judges.score import unread
from labeling.label import Measurement
from warehouse.files import text_sha256

Question = TypeVar("Question")
_MENDABLE = ("malformed", "off_schema", "truncated")  # a second try may mend these
_REPAIR_ROOM = 2  # times as many tokens for the second try
_NOTHING = ChatAnswer("", "error", error_message="the engine gave no answer to this request")
_Place = tuple[int, int]  # row, sample


def ask_and_repair(
    engine: ChatEngine,
    asked: Sequence[Question | Measurement],
    request: Callable[[Question, int, int], ChatRequest],
    read: Callable[[Question, Measurement, ChatAnswer], tuple[Measurement, str | None]],
    *,
    score_method: str,
    samples: int = 1,
    may_repair: bool = True,
    progress: Callable[[int], None] | None = None,
) -> list[list[Attempt]]:
    """All attempts at every subject, in order; a subject that is a Measurement is not asked about.

    `request` gets a question, a sample and an attempt; the key is set here. `read` gets a question,
    the answer as it came (score.unread) and the answer; it gives a measurement and reasons.
    `progress` is told of subjects whose first answers are all there. Raises what the engine raises.
    """
    questions = {row: it for row, it in enumerate(asked) if not isinstance(it, Measurement)}
    attempts = [[Attempt(it)] if isinstance(it, Measurement) else [] for it in asked]
    if progress is not None and len(questions) < len(asked):
        progress(len(asked) - len(questions))
    wanted = [(row, sample) for row in questions for sample in range(samples)]

    def tried(
        places: Sequence[_Place], number: int, done: Callable[[ChatAnswer], None] | None
    ) -> dict[_Place, Attempt]:
        requests = {
            (row, sample): replace(
                request(questions[row], sample, number), key=f"{row}.{sample}.{number}"
            )
            for row, sample in places
        }
        # Joined by key: an engine may answer in another order, or not at all.
        answers = {it.key: it for it in engine.complete(list(requests.values()), done)}
        found = {}
        for place, sent in requests.items():
            answer = answers.get(sent.key, _NOTHING)
            measured, reasons = read(questions[place[0]], unread(sent, answer), answer)
            found[place] = Attempt(
                measured, sent, answer, reasons, score_method, place[1], is_repair=number > 0
            )
        return found

    first = tried(wanted, 0, _row_counter(wanted, progress))
    again = [p for p in wanted if may_repair and first[p].measurement.status in _MENDABLE]
    second = tried(again, 1, None) if again else {}
    for place in wanted:
        attempts[place[0]] += [tries[place] for tries in (first, second) if place in tries]
    return attempts


def written_request(
    messages: tuple[Mapping[str, str], ...],
    draw: str,
    attempt: int,
    *,
    max_tokens: int,
    temperature: float,
    schema: Mapping[str, Any],
    occasion: str | None = None,
) -> ChatRequest:
    """A call for one written answer; a second attempt differs in its seed and in its room only.

    The seed is drawn from the text `draw`, in which the attempt stands.
    """
    return ChatRequest(
        "",
        messages,
        max_tokens=max_tokens * (_REPAIR_ROOM if attempt else 1),
        temperature=temperature,
        seed=int(text_sha256(draw)[:8], 16) >> 1,
        schema=schema,
        occasion=occasion,
    )


def _row_counter(
    wanted: Sequence[_Place], progress: Callable[[int], None] | None
) -> Callable[[ChatAnswer], None] | None:
    """Counts a row as done when the last of its samples has arrived."""
    if progress is None:
        return None
    open_samples = Counter(row for row, _ in wanted)

    def done(answer: ChatAnswer) -> None:
        row = int(answer.key.partition(".")[0])
        open_samples[row] -= 1
        if open_samples[row] == 0:
            progress(1)

    return done
