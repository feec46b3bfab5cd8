"""What every column holds, in words: the sentences of two YAML files, one per column.

Not here: what a row is (schemas.py for tables, the first comment of its query for a mart), and how
the sentences reach the views (catalog.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files as resource_files
from typing import Any

_EVERYWHERE = "everywhere"
_SAME_AS = "same_as"


def load_descriptions(*, with_questions: bool = False) -> Descriptions:
    """The sentences on tables, marts and the ledger, or also on the audit questions."""
    sections = _load("descriptions.yaml")
    if with_questions:
        sections["questions"] = _load("question_descriptions.yaml")
    return Descriptions(sections)


def _load(name: str) -> dict[str, Any]:
    import yaml

    text = (resource_files("warehouse") / name).read_text(encoding="utf-8")
    # The loader in C, where libyaml is there: a tenth of the time.
    sections: dict[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return sections


class Descriptions:
    """Sentences by table or mart and column, with `everywhere` for columns that mean one thing."""

    def __init__(self, sections: dict[str, Any]) -> None:
        self._everywhere: dict[str, str] = sections[_EVERYWHERE]
        self._own: dict[str, dict[str, str]] = {
            name: columns
            for section, tables in sections.items()
            if section != _EVERYWHERE
            for name, columns in tables.items()
        }
        meanings: dict[str, set[str]] = {}
        for columns in sections["tables"].values():
            for column, sentence in columns.items():
                meanings.setdefault(column, set()).add(sentence)
        # A name that two tables use in two ways describes no column of a mart.
        self._agreed = {name: min(said) for name, said in meanings.items() if len(said) == 1}

    def of(self, name: str, columns: Sequence[str]) -> dict[str, str]:
        """The sentences of the columns of table or mart `name`; a column without one is left out.

        A column's own sentence comes first, then that of the table it is the same as, then the one
        for everywhere, then the one that the tables agree on.
        """
        own = self._own.get(name, {})
        model = self._own.get(own.get(_SAME_AS, ""), {})
        known = self._agreed | self._everywhere | model | own
        return {column: known[column] for column in columns if column in known}
