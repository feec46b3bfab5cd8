"""`roundhouse export` and the `train-…` commands that go through TRL, one thin function each.

Registered in cli.py. Not here: which rows (training.preference.rows), the run of a trainer
(preferences.py).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

_STATUSES = ("completed", "refused", "rejected")
Config = Annotated[str, typer.Argument(help="a YAML file or a shipped name (demo)")]
Rounds = Annotated[
    list[int] | None, typer.Option("--round", "--rounds", min=0, help="repeatable; none: all")
]
Statuses = Annotated[
    list[str] | None, typer.Option("--status", help="of the rounds, repeatable; default: completed")
]
AsOf = Annotated[int | None, typer.Option("--as-of", help="a version of the ledger")]
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
Sets = Annotated[list[str] | None, typer.Option("--set", help="key.sub=value, repeatable")]


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
    from training.preference.export import KINDS, SUFFIXES, export_rows
    from training.preference.selection import Selection

    if kind not in KINDS:
        raise typer.BadParameter(f"{kind}: expected one of {', '.join(KINDS)}")
    if out.suffix not in SUFFIXES:
        raise typer.BadParameter(f"{out}: name the export {' or '.join(SUFFIXES)}")
    selection = Selection(
        rounds=tuple(rounds) if rounds else None,
        statuses=checked_statuses(statuses),
        margin=margin,
        threshold=threshold,
        pairs=pairs,
        imported=checked_source(imported, rounds, pairs),
        allow_truncated=truncated,
        as_of=as_of,
    )
    table = export_rows(warehouse, kind, out, selection)
    noun = {"dpo": "pairs", "reward": "pairs"}.get(kind, "completions")
    typer.echo(f"{table.num_rows} {noun} in {out}")
    if kind == "kto":
        labels = Counter(table["label"].to_pylist())
        typer.echo(f"{labels[True]} desirable, {labels[False]} undesirable")
    if table.num_rows and kind in ("dpo", "kto") and "reference_revision" not in table.schema.names:
        typer.echo("without reference log-probs: not every row has them stored")


def train_dpo(
    config: Config,
    rounds: Rounds = None,
    statuses: Statuses = None,
    pairs: Pairs = None,
    imported: Imported = None,
    policy: Policy = None,
    out: Out = None,
    sets: Sets = None,
) -> None:
    """DPO on stored pairs: sampled tokens, stored reference log-probs, no reference model."""
    _train("dpo", config, rounds, statuses, pairs, imported, policy, out, sets)


def train_kto(
    config: Config,
    rounds: Rounds = None,
    statuses: Statuses = None,
    policy: Policy = None,
    out: Out = None,
    sets: Sets = None,
) -> None:
    """KTO on single completions, desirable above a reward: no pairs, no reference model."""
    _train("kto", config, rounds, statuses, None, None, policy, out, sets)


def train_sft(
    config: Config,
    rounds: Rounds = None,
    statuses: Statuses = None,
    pairs: Pairs = None,
    imported: Imported = None,
    policy: Policy = None,
    out: Out = None,
    sets: Sets = None,
) -> None:
    """Supervised training on the best completion of each prompt and round, or on pairs' chosen."""
    _train("sft", config, rounds, statuses, pairs, imported, policy, out, sets)


def train_reward_model(
    config: Config,
    rounds: Rounds = None,
    statuses: Statuses = None,
    pairs: Pairs = None,
    imported: Imported = None,
    policy: Policy = None,
    out: Out = None,
    sets: Sets = None,
) -> None:
    """A reward model from stored pairs; serve it with a labeler of kind reward_model."""
    _train("reward", config, rounds, statuses, pairs, imported, policy, out, sets)


def _train(
    kind: str,
    config: str,
    rounds: list[int] | None,
    statuses: list[str] | None,
    pairs: str | None,
    imported: str | None,
    policy: str | None,
    out: Path | None,
    sets: list[str] | None,
) -> None:
    from pipeline.configs.loading import load_config
    from pipeline.preferences import train
    from training.preference.selection import Selection

    settings = load_config(config, sets)
    keys = settings.preference_training
    selection = Selection(
        rounds=tuple(rounds) if rounds else None,
        statuses=checked_statuses(statuses),
        margin=keys.margin,
        threshold=keys.threshold,
        pairs=pairs,
        imported=checked_source(imported, rounds, pairs),
        allow_truncated=keys.allow_truncated,
    )
    train(settings, kind, selection, policy=policy, out=out, say=typer.echo)


def checked_source(imported: str | None, rounds: list[int] | None, pairs: str | None) -> str | None:
    """The imported source. Raises BadParameter beside options that choose other rows."""
    if imported is not None and (rounds or pairs):
        raise typer.BadParameter("--imported takes the place of --round and --pairs: give one")
    return imported


def checked_statuses(statuses: list[str] | None) -> tuple[str, ...]:
    """The statuses of rounds that take part. Raises BadParameter for an unknown one."""
    for status in statuses or ():
        if status not in _STATUSES:
            raise typer.BadParameter(f"--status {status}: expected one of {', '.join(_STATUSES)}")
    return tuple(statuses or ("completed",))
