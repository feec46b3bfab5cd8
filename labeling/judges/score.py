"""From an endpoint's answer to a measurement: a verdict's number, or an expectation, or neither.

Pure functions. Not here: what a verdict is (verdict.py), the rows (attempts.py), the calls
(written.py).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from labeling.engines.chat import ChatAnswer, ChatRequest
from labeling.engines.prices import estimated_tokens
from labeling.judges.attempts import Attempt, storable
from labeling.judges.likelihood import measure
from labeling.judges.prompt import RenderedPrompt
from labeling.judges.rubric import Rubric
from labeling.judges.verdict import read_verdict
from labeling.label import Measurement

_FAILED = ("empty", "truncated", "filtered", "timeout", "throttled", "too_long", "error")
MOST_BRACKET = 0.1  # of a score in [0, 1]: a wider one is no measurement


def unread(request: ChatRequest, answer: ChatAnswer) -> Measurement:
    """The answer as it came, without a score: its own status, or error where it has none of them.

    Of an ok answer the status is error until it has been read. Tokens that the endpoint did not
    count are estimated, which the row says (is_usage_estimated); the cost is not.
    """
    is_known = answer.status in _FAILED
    detail = answer.error_message
    if not is_known and answer.status != "ok":
        detail = f"the engine gave the answer status {answer.status!r}"
    asked = json.dumps([dict(message) for message in request.messages], ensure_ascii=False)
    read, wrote = answer.input_tokens, answer.output_tokens
    if answer.text is not None:
        contents = [message["content"] for message in request.messages]
        read = estimated_tokens(*contents) if read is None else read
        wrote = estimated_tokens(answer.text) if wrote is None else wrote
    return Measurement(
        answer.status if is_known else "error",
        raw_output=None if answer.text is None else storable(answer.text),
        status_detail=detail and storable(detail),
        rendered_prompt=asked,
        input_tokens=read,
        output_tokens=wrote,
    )


def written(
    found: Measurement, text: str, rubric: Rubric, scale: Mapping[int, float]
) -> tuple[Measurement, str | None]:
    """`found` with what the verdict in `text` says, and the verdict's rationale."""
    verdict = read_verdict(text, scale)
    raw = verdict.score_raw
    measurement = replace(
        found,
        status=verdict.status,
        score=None if raw is None else rubric.share(raw),
        score_raw=raw,
        status_detail=verdict.detail and storable(verdict.detail),
    )
    return measurement, verdict.rationale


def expectation(
    found: Measurement, answer: ChatAnswer, rubric: Rubric, min_label_mass: float
) -> Measurement:
    """`found` with the expectation over the labels as first token, read as in judge.measure.

    A label that is not shown counts as 0, but it may have some mass (see score_bracket): where that
    could move the score by more than MOST_BRACKET, there is none. One token was asked for, so that
    the answer was cut off after it is no truncation.
    """
    shown = answer.first_token_logprobs
    if answer.status not in ("ok", "truncated"):
        return found
    if shown is None:
        detail = "the endpoint shows no log-probabilities; use method: written"
        return replace(found, status="error", status_detail=detail)
    logprobs = [folded_logprob(label, shown) for label in rubric.labels]
    prompt = RenderedPrompt([], found.rendered_prompt or "")
    ids = range(len(logprobs))  # the endpoint names tokens by their text, so there are no ids
    measured = measure(rubric, ids, logprobs, prompt, min_label_mass)
    if measured.status == "ok":
        low, high = score_bracket(rubric, logprobs, list(shown.values()))
        if high > low:
            detail = f"score in [{low:.4f}, {high:.4f}]: the endpoint does not show every label"
            measured = replace(measured, status_detail=detail)
        if high - low > MOST_BRACKET:
            measured = replace(measured, status="low_mass", score=None, score_raw=None)
    return replace(
        measured,
        raw_output=found.raw_output,
        score_logprobs=tuple(replace(x, token_id=None) for x in measured.score_logprobs or ()),
        input_tokens=found.input_tokens,
        output_tokens=found.output_tokens,
    )


def score_bracket(
    rubric: Rubric, logprobs: Sequence[float], shown: Sequence[float]
) -> tuple[float, float]:
    """Lowest and highest score in [0, 1] that the labels' true log-probs (nats) could give.

    A label at -inf is missing among the `shown` alternatives: it is at most as likely as the least
    likely of them, and all missing together have no more than the mass that is not shown.
    """
    seen = [math.exp(x) for x in logprobs]
    most = min(map(math.exp, shown), default=0.0)
    unseen = max(0.0, 1 - math.fsum(map(math.exp, shown)))
    missing = sorted(v for v, p in zip(rubric.values, seen, strict=True) if p == 0)
    weighted = math.fsum(v * p for v, p in zip(rubric.values, seen, strict=True))

    def furthest(values: Sequence[float], sign: int) -> float:
        mass, total, left = math.fsum(seen), weighted, unseen
        for value in values:
            share = min(most, left)
            if sign * (value - total / mass) > 0:
                mass, total, left = mass + share, total + value * share, left - share
        return rubric.share(total / mass)

    return furthest(missing, -1), furthest(missing[::-1], 1)


def folded_logprob(label: str, shown: Mapping[str, float]) -> float:
    """Log-probability (nats) of all shown tokens that are the label but for spaces around it.

    Only ASCII spaces fold: a full-width digit is another answer. -inf where no token is shown.
    """
    found = [logprob for token, logprob in shown.items() if token.strip(" \t\r\n") == label]
    if any(math.isnan(logprob) for logprob in found):
        return math.nan
    most = max(found, default=-math.inf)
    if len(found) < 2 or not math.isfinite(most):
        return most
    return most + math.log(math.fsum(math.exp(logprob - most) for logprob in found))


def summary(attempts: Sequence[Attempt], rubric: Rubric) -> Attempt:
    """The label of several samples: the mean of those that have a score.

    Without any score it has the most frequent status, and of equally frequent ones the first. Its
    tokens and cost stand in the samples' rows, once.
    """
    last = {attempt.sample: attempt.measurement for attempt in attempts}
    found = [last[sample] for sample in sorted(last)]
    statuses = Counter(measurement.status for measurement in found)
    values = [m.score_raw for m in found if m.score_raw is not None]
    mean = math.fsum(values) / len(values) if values else None
    status = statuses.most_common(1)[0][0]
    if values:
        status = "ok_repaired" if statuses["ok_repaired"] else "ok"
    counts = ", ".join(f"{name} {count}" for name, count in statuses.items())
    measurement = Measurement(
        status,
        None if mean is None else rubric.share(mean),
        mean,
        raw_output=json.dumps([m.raw_output for m in found], ensure_ascii=False),
        status_detail=f"{len(values)} of {len(found)} samples: {counts}",
        rendered_prompt=found[0].rendered_prompt,
    )
    return Attempt(measurement, score_method="sampled_mean")
