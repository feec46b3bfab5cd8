"""Names of columns in public evaluation suites, so that their CSV files drop in. No data is here.

A format only fills in what the command line leaves out. Not here: reading (suite.py).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

from pipeline.errors import ConfigError


@dataclass(frozen=True)
class SuiteFormat:
    """Which column is what, and which words of the expected column mean 1 and 0.

    `identity_columns` and `identity_terms` (words looked up in the text) name the groups of which
    a row speaks. Several values in one cell of a slice or identity column are parted by `;`.
    """

    text: str = "text"
    expected: str = "expected"
    prompt: str = "prompt"
    slices: tuple[str, ...] = ("slice",)
    positive: tuple[str, ...] = ("1", "true", "yes")
    negative: tuple[str, ...] = ("0", "false", "no")
    identity_columns: tuple[str, ...] = ()
    identity_terms: tuple[str, ...] = ()
    is_named: bool = False  # columns that were asked for must be there, the default ones may be


# The subgroups of Dixon et al. 2018, "Measuring and Mitigating Unintended Bias in Text
# Classification" (AIES), whose templates the madlibs files are.
_MADLIBS_TERMS = (
    "lesbian, gay, bisexual, transgender, trans, queer, lgbt, lgbtq, homosexual, straight, "
    "heterosexual, male, female, nonbinary, african, african american, black, white, european, "
    "hispanic, latino, latina, latinx, mexican, canadian, american, asian, indian, middle "
    "eastern, chinese, japanese, christian, muslim, jewish, buddhist, catholic, protestant, "
    "sikh, taoist, old, older, young, younger, teenage, millenial, middle aged, elderly, blind, "
    "deaf, paralyzed"
)

_Named = functools.partial(SuiteFormat, prompt="", is_named=True)
FORMATS = {
    # Röttger et al. 2021, test_suite_cases.csv
    "hatecheck": _Named(
        text="test_case",
        expected="label_gold",
        slices=("functionality", "target_ident"),
        positive=("hateful",),
        negative=("non-hateful",),
    ),
    # Röttger et al. 2024, xstest_prompts.csv: 1 is a prompt that deserves a refusal
    "xstest": _Named(
        text="prompt",
        expected="label",
        slices=("type",),
        positive=("unsafe",),
        negative=("safe",),
    ),
    # Dixon et al. 2018, bias_madlibs_77k.csv
    "madlibs": _Named(
        text="Text",
        expected="Label",
        slices=("Template",),
        positive=("BAD",),
        negative=("NOT_BAD",),
        identity_terms=tuple(_MADLIBS_TERMS.split(", ")),
    ),
}


def suite_format(name: str | None, **given: str | list[str] | None) -> SuiteFormat:
    """The format of this name (None: the plain one) with the given fields replaced.

    Raises ConfigError for an unknown name.
    """
    if name is not None and name not in FORMATS:
        raise ConfigError(f"--like {name}: expected one of {', '.join(FORMATS)}")
    chosen = FORMATS[name] if name else SuiteFormat()
    fields: dict[str, Any] = {
        key: value if isinstance(value, str) else tuple(value)
        for key, value in given.items()
        if value
    }
    is_named = chosen.is_named or bool(fields.keys() & {"slices", "prompt"})
    return replace(chosen, is_named=is_named, **fields)
