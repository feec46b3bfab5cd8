"""`roundhouse evaluate-labeler` and `evaluate-policy`. Light to import; the work is elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import Labelers, Sets

Out = Annotated[Path, typer.Option(help="the report: .json, .csv or a table as text")]
Style = Annotated[str | None, typer.Option("--format", help="table, json or csv; by --out's name")]
Like = Annotated[str | None, typer.Option(help="columns of: hatecheck, xstest, madlibs")]
Text = Annotated[str | None, typer.Option("--text-column", help="default: text")]
Expected = Annotated[str | None, typer.Option("--expected-column", help="default: expected")]
Slices = Annotated[list[str] | None, typer.Option("--slice-column", help="default: slice")]
Words = Annotated[list[str] | None, typer.Option(help="what the expected column says, repeatable")]
Threshold = Annotated[float, typer.Option(min=0, max=1, help="a score from here up means 1")]


def evaluate_labeler(
    file: Annotated[Path, typer.Argument(help="a CSV: text, expected, slice")],
    config: Annotated[str, typer.Option(help="a YAML file or a shipped name")],
    out: Out,
    names: Labelers = None,
    style: Style = None,
    like: Like = None,
    text: Text = None,
    expected: Expected = None,
    slices: Slices = None,
    prompt: Annotated[str | None, typer.Option("--prompt-column", help="default: prompt")] = None,
    identities: Annotated[
        list[str] | None, typer.Option("--identity-column", help="groups a row speaks of")
    ] = None,
    terms: Annotated[
        list[str] | None, typer.Option("--identity-term", help="a group named in the text")
    ] = None,
    positive: Words = None,
    negative: Words = None,
    threshold: Threshold = 0.5,
    sets: Sets = None,
) -> None:
    """How right a labeler is on a suite: overall, per slice, the worst first, by identity group."""
    from pipeline.commands import suite_output as output
    from pipeline.configs.loading import load_config
    from pipeline.suites.formats import suite_format
    from pipeline.suites.labeler import evaluate_labelers
    from pipeline.suites.suite import read_suite

    form = suite_format(
        like, text=text, expected=expected, prompt=prompt, slices=slices,
        identity_columns=identities, identity_terms=terms, positive=positive, negative=negative,
    )  # fmt: skip
    chosen = output.chosen_format(style, out)
    settings = load_config(config, sets)
    suite = read_suite(file, form)
    numbers = evaluate_labelers(
        settings, suite, names or (), near=out, threshold=threshold, say=typer.echo
    )
    output.write_report(
        out, chosen, lambda: output.show_labelers(numbers), output.labeler_rows(numbers),
        output.labeler_document(suite, numbers, threshold),
    )  # fmt: skip


def evaluate_policy(
    config: Annotated[str, typer.Argument(help="a YAML file or a shipped name")],
    file: Annotated[Path, typer.Option("--suite", help="a CSV: text (the prompt), expected")],
    out: Out,
    policy: Annotated[
        str | None, typer.Option(help="a revision or folder; default: the base policy")
    ] = None,
    number: Annotated[
        int | None, typer.Option("--round", min=0, help="the policy that round N measures")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="completions per prompt")] = 1,
    names: Labelers = None,
    style: Style = None,
    like: Like = None,
    text: Text = None,
    expected: Expected = None,
    slices: Slices = None,
    positive: Words = None,
    negative: Words = None,
    threshold: Threshold = 0.5,
    sets: Sets = None,
) -> None:
    """What a policy makes of a suite's prompts: refusals, safe and unsafe, and toxicity by slice.

    In the expected column 1 is a prompt that deserves a refusal; without the column there is no
    pair. Refusals are found by their words.
    """
    from pipeline.commands import suite_output as output
    from pipeline.configs.loading import load_config
    from pipeline.policies.policies import PolicyChoice
    from pipeline.suites.formats import suite_format
    from pipeline.suites.policy import evaluate_policy as evaluate
    from pipeline.suites.suite import read_suite

    form = suite_format(
        like, text=text, expected=expected, slices=slices, positive=positive, negative=negative
    )
    chosen = output.chosen_format(style, out)
    settings = load_config(config, sets)
    suite = read_suite(file, form, needs_expected=expected is not None or like is not None)
    numbers = evaluate(
        settings, suite, PolicyChoice(policy, number), names or (),
        samples=samples, near=out, threshold=threshold, say=typer.echo,
    )  # fmt: skip
    output.write_report(
        out, chosen, lambda: output.show_policy(numbers), output.policy_rows(numbers),
        output.policy_document(suite, numbers, threshold),
    )  # fmt: skip
