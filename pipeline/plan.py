"""`--dry-run`: rows, tokens and cost of the coming night, before anything of it is paid for.

Nothing is loaded and nothing written. Tokens per row are those that the labeler's last published
round took; where there is none, what the configuration allows at most. Not here: what is spent in
the end (query `round_costs`), the budgets that stop it (labeling/engines).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from labeling.engines.config import BedrockEngineConfig, OpenAIEngineConfig
from labeling.engines.prices import Price, known_price
from labeling.judges.config import JudgeConfig
from labeling.labelers.build import rubric_of
from labeling.labelers.config import LabelerConfig
from pipeline.config import RunConfig
from pipeline.night import next_round
from pipeline.stages.labels import sentinel_set
from warehouse.errors import StoreError
from warehouse.handle import Warehouse
from warehouse.keys import labelling_name, rollouts_key

if TYPE_CHECKING:
    import duckdb

_BYTES_PER_TOKEN = 3  # on the safe side for English: four is usual
_LAST_ROUND = """
select round, sum(input_tokens) / count(distinct rollout_id),
    sum(output_tokens) / count(distinct rollout_id), count(*) / count(distinct rollout_id)
from labels where labeler = $1 and round is not null group by round order by round desc limit 1
"""
_PROMPTS = """
select count(*) filter (purpose = 'holdout'), avg(strlen(messages)) from prompts
"""


@dataclass(frozen=True)
class PlannedStage:
    """One stage of the night: rows, calls and tokens it will take; None where nobody can say.

    `usd` is None where nothing is paid for, or no price is known (`basis` says so then).
    """

    stage: str
    rows: int
    calls: int
    input_tokens: int | None
    output_tokens: int | None
    usd: float | None
    basis: str


@dataclass(frozen=True)
class NightPlan:
    """The coming night's stages; `usd` is the sum of those with a price."""

    round: int
    stages: tuple[PlannedStage, ...]

    @property
    def usd(self) -> float:
        """US dollars."""
        return sum(stage.usd or 0.0 for stage in self.stages)


@dataclass(frozen=True)
class _Known:
    """What the warehouse can say: the next round, hold-out prompts, mean bytes of a prompt."""

    con: duckdb.DuckDBPyConnection | None
    round: int
    holdout: int | None
    prompt_bytes: float | None


def plan_night(config: RunConfig) -> NightPlan:
    """Sampling, labels and evaluation of the next round."""
    known = _known(config)
    counts = config.rollouts
    holdout_prompts = counts.holdout_prompts or known.holdout or 0
    rows = {
        "train": counts.prompts * counts.samples,
        "holdout": holdout_prompts * counts.holdout_samples,
    }
    # Night r ends with the evaluation of policy r + 1; the first one begins with that of policy 0.
    nights = [("train", known.round), ("holdout", known.round + 1)]
    if known.round == 0:
        nights.insert(0, ("holdout", 0))
    stages: list[PlannedStage] = []
    for purpose, number in nights:
        name, count = rollouts_key(number, purpose), rows[purpose]
        most = "at most" if count else "all hold-out prompts: known once they are read"
        tokens = count * counts.max_tokens
        stages.append(PlannedStage(name, count, count, None, tokens, None, most))
        for labeler in config.labelers:
            known_texts = sentinel_set(config, labeler) if purpose == "train" else None
            extra = len(known_texts.of(labeler.criterion)) if known_texts else 0
            asked = extra + (_pairs(labeler, count, config, purpose) or count)
            stages.append(_label_stage(config, labeler, (number, purpose), asked, known))
    return NightPlan(known.round, tuple(stages))


def _pairs(labeler: LabelerConfig, rows: int, config: RunConfig, purpose: str) -> int | None:
    """Pairs among these completions; None for a labeler of single ones."""
    if not isinstance(labeler, JudgeConfig) or labeler.mode == "pointwise":
        return None
    counts = config.rollouts
    samples = counts.samples if purpose == "train" else counts.holdout_samples
    of_a_prompt = samples // 2 if labeler.pairs == "adjacent" else samples * (samples - 1) // 2
    return rows // samples * of_a_prompt


def _label_stage(
    config: RunConfig, labeler: LabelerConfig, of: tuple[int, str], rows: int, known: _Known
) -> PlannedStage:
    last = None
    if known.con is not None:
        last = next(iter(known.con.execute(_LAST_ROUND, [labeler.name]).fetchall()), None)
    calls_a_row = labeler.samples if isinstance(labeler, JudgeConfig) else 1
    if isinstance(labeler, JudgeConfig) and labeler.mode == "pairwise":
        calls_a_row *= 2  # both orders
    inputs, outputs = _most_tokens(config, labeler, known)
    basis = "tokens: at most"
    if last is not None and last[1] is not None:
        inputs, outputs = float(last[1]), float(last[2] or 0)
        basis = f"tokens: as in round {last[0]}"
    total_in = None if inputs is None else round(rows * inputs)
    total_out = None if outputs is None else round(rows * outputs)
    usd, note = _cost(labeler, total_in, total_out)
    basis = f"{basis}, {note}" if note else basis
    name = labelling_name(*of, labeler.name)
    return PlannedStage(name, rows, rows * calls_a_row, total_in, total_out, usd, basis)


def _most_tokens(
    config: RunConfig, labeler: LabelerConfig, known: _Known
) -> tuple[float | None, float | None]:
    """Input and output tokens of one row at the most; None where prompts are not read yet."""
    completion = float(config.rollouts.max_tokens)
    if not isinstance(labeler, JudgeConfig):
        return completion + 2, 0.0
    rubric = rubric_of(labeler)  # a wrong one shows before anything is done
    if known.prompt_bytes is None:
        inputs = None
    else:
        texts = len(rubric.text.encode()) + known.prompt_bytes
        inputs = labeler.samples * (texts / _BYTES_PER_TOKEN + completion)
    if labeler.chosen_method == "logprobs":
        return inputs, 1.0
    return inputs, float(labeler.samples * labeler.max_output_tokens)


def _cost(
    labeler: LabelerConfig, inputs: int | None, outputs: int | None
) -> tuple[float | None, str]:
    """USD of these tokens, and what there is to say about it."""
    engine = labeler.engine if isinstance(labeler, JudgeConfig) else None
    if not isinstance(engine, OpenAIEngineConfig | BedrockEngineConfig):
        return None, ""
    given = engine.price
    price = Price(given.input, given.output, "given") if given else known_price(engine.model)
    if price is None:
        return None, f"no price for {engine.model}: give engine.price"
    if inputs is None or outputs is None:
        return None, "cost: known once the prompts are read"
    usd = price.cost(inputs, outputs)
    if engine.budget_usd is not None and usd > engine.budget_usd:
        return usd, f"MORE than engine.budget_usd {engine.budget_usd:g}"
    return usd, ""


def _known(config: RunConfig) -> _Known:
    try:
        warehouse = Warehouse.open(config.warehouse, read_only=True)
    except StoreError:  # the first night makes it
        return _Known(None, 0, None, None)
    con = warehouse.connect()
    ((holdout, size),) = con.execute(_PROMPTS).fetchall()
    return _Known(con, next_round(config, warehouse), holdout or None, size)
