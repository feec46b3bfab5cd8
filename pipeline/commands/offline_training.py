"""`roundhouse export` and the `train-…` commands that go through TRL, one thin function each.

Registered in cli.py. Not here: which rows (training.preference.rows), the run of a trainer
(preferences.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import AsOf, Config, Sets

if TYPE_CHECKING:
    from training.preference.selection import Selection

_STATUSES = ("completed", "refused", "rejected")
Rounds = Annotated[
    list[int] | None, typer.Option("--round", "--rounds", min=0, help="repeatable; none: all")
]
Statuses = Annotated[
    list[str] | None, typer.Option("--status", help="of the rounds, repeatable; default: completed")
]
Pairs = Annotated[
    str | None, typer.Option("--pairs", help="a stored pair recipe; none: best against worst")
]
Imported = Annotated[
    str | None, typer.Option("--imported", help="scored completions of this imported source")
]
Truncated = Annotated[
    bool, typer.Option("--truncated", help="also completions cut off at their token limit")
]
Policy = Annotated[
    str | None, typer.Option("--policy", help="a revision or folder; default: the base policy")
]
Out = Annotated[
    Path | None, typer.Option("--out", help="default: in the warehouse, under its revision")
]


def export(
    warehouse: Annotated[str, typer.Argument(help="the warehouse folder")],
    kind: Annotated[str, typer.Argument(help="dpo, kto, sft or reward")],
    out: Annotated[Path, typer.Option(help="a .jsonl or .parquet file")],
    margin: Annotated[float, typer.Option(min=0, help="pairs: least difference of rewards")] = 0.5,
    threshold: Annotated[
        float | None, typer.Option(help="kto: desirable above it; none: the round's mean reward")
    ] = None,
    rounds: Rounds = None,
    statuses: Statuses = None,
    pairs: Pairs = None,
    imported: Imported = None,
    truncated: Truncated = False,
    as_of: AsOf = None,
) -> None:
    """Scored train rollouts as datasets.load_dataset and TRL's trainers read them."""
    from training.preference.export import SUFFIXES, export_rows
    from training.preference.rows import ROWS

    if kind not in ROWS:
        raise typer.BadParameter(f"{kind}: expected one of {', '.join(ROWS)}")
    if out.suffix not in SUFFIXES:
        raise typer.BadParameter(f"{out}: name the export {' or '.join(SUFFIXES)}")
    selection = _selection(
        rounds, statuses, pairs, imported,
        margin=margin, threshold=threshold, allow_truncated=truncated, as_of=as_of,
    )  # fmt: skip
    table = export_rows(warehouse, kind, out, selection)
    noun = {"dpo": "pairs", "reward": "pairs"}.get(kind, "completions")
    typer.echo(f"{table.num_rows} {noun} in {out}")
    if kind == "kto":
        labels = Counter(table["label"].to_pylist())
        typer.echo(f"{labels[True]} desirable, {labels[False]} undesirable")
    if table.num_rows and kind in ("dpo", "kto") and "reference_revision" not in table.schema.names:
        typer.echo("without reference log-probs: not every row has them stored")


def _on_pairs(kind: str, what: str) -> Callable[..., None]:
    """The command of a training that also reads stored pairs and imported completions."""

    def command(
        config: Config,
        rounds: Rounds = None,
        statuses: Statuses = None,
        pairs: Pairs = None,
        imported: Imported = None,
        policy: Policy = None,
        out: Out = None,
        sets: Sets = None,
    ) -> None:
        from pipeline.configs.loading import load_config
        from pipeline.preferences import train

        settings = load_config(config, sets)
        keys = settings.preference_training
        selection = _selection(
            rounds, statuses, pairs, imported,
            margin=keys.margin, threshold=keys.threshold, allow_truncated=keys.allow_truncated,
        )  # fmt: skip
        train(settings, kind, selection, policy=policy, out=out, say=typer.echo)

    command.__doc__ = what
    return command


train_dpo = _on_pairs(
    "dpo", "DPO on stored pairs: sampled tokens, stored reference log-probs, no reference model."
)
train_sft = _on_pairs(
    "sft",
    "Supervised training on the best completion of each prompt and round, or on pairs' chosen.",
)
train_reward_model = _on_pairs(
    "reward",
    "A reward model from stored pairs; serve it with a labeler of kind reward_model.",
)


def train_kto(
    config: Config,
    rounds: Rounds = None,
    statuses: Statuses = None,
    policy: Policy = None,
    out: Out = None,
    sets: Sets = None,
) -> None:
    """KTO on single completions, desirable above a reward: no pairs, no reference model."""
    _on_pairs("kto", "")(config, rounds, statuses, None, None, policy, out, sets)


def _selection(
    rounds: list[int] | None,
    statuses: list[str] | None,
    pairs: str | None,
    imported: str | None,
    *,
    margin: float,
    threshold: float | None,
    allow_truncated: bool,
    as_of: int | None = None,
) -> Selection:
    """Which rows the options choose. Raises BadParameter for options that do not go together."""
    from training.preference.selection import Selection

    for status in statuses or ():
        if status not in _STATUSES:
            raise typer.BadParameter(f"--status {status}: expected one of {', '.join(_STATUSES)}")
    if imported is not None and (rounds or pairs):
        raise typer.BadParameter("--imported takes the place of --round and --pairs: give one")
    return Selection(
        rounds=tuple(rounds) if rounds else None,
        statuses=tuple(statuses or ("completed",)),
        margin=margin,
        threshold=threshold,
        pairs=pairs,
        imported=imported,
        allow_truncated=allow_truncated,
        as_of=as_of,
    )
