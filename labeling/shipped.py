"""YAML files that come with this room under a name, or a user's own by path: rubrics, sentinels.

The file's text is stored in table `templates` under its sha256, so a score leads back to the words
that caused it. Not here: what stands in one (judges/rubric.py, gate/sentinels.py).
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import ClassVar, Self

import pyarrow as pa
import yaml
from pydantic import PrivateAttr, ValidationError

from labeling.errors import Misconfigured, one_line
from labeling.section import Section
from warehouse.files import text_sha256
from warehouse.schemas import table_from_rows


class ShippedFile(Section):
    """What stands in a file; `kind` is the template's, `folder` where the shipped ones lie."""

    kind: ClassVar[str]
    folder: ClassVar[str]

    name: str
    version: str
    _text: str = PrivateAttr("")

    @property
    def text(self) -> str:
        """The file, verbatim."""
        return self._text

    @property
    def sha256(self) -> str:
        """Hash of the file's text."""
        return text_sha256(self._text)

    def template_rows(self) -> pa.Table:
        """The file as one row of table `templates`."""
        return template_row(self.kind, self.name, self.version, self.text)

    @classmethod
    def load(cls, name: str) -> Self:
        """The shipped file of this name, or the one at this path. Raises Misconfigured."""
        folder = Path(str(resources.files("labeling"))) / cls.folder
        shipped = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
        path = shipped.get(name) or Path(name)
        if not path.is_file():
            raise Misconfigured(
                f"{cls.kind} {name}: neither a file nor one of the shipped: {list(shipped)}"
            )
        try:
            text = path.read_text(encoding="utf-8")
            found = cls.model_validate(yaml.safe_load(text))
        except ValidationError as error:
            raise Misconfigured(f"{cls.kind} {path}: {_explained(error)}") from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise Misconfigured(
                f"{cls.kind} {path}: cannot be read as YAML: {one_line(error)}"
            ) from error
        found._text = text
        return found


def template_row(kind: str, name: str, version: str, text: str) -> pa.Table:
    """One row of table `templates`, under the hash of its text."""
    row: dict[str, object] = {
        "template_sha256": text_sha256(text),
        "kind": kind,
        "name": name,
        "version": version,
        "text": text,
    }
    return table_from_rows("templates", [row])


def _explained(error: ValidationError) -> str:
    """One line: each key and what is wrong with it."""
    wrong = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        wrong.append(f"{key}: {message}" if key else message)
    return "; ".join(wrong)
