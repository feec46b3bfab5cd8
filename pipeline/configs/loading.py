"""What is wrong with a configuration, in the words of the file: its keys, and those there are.

Knows pydantic's errors and models, not what the keys mean (config.py).
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config import RunConfig
from pipeline.errors import ConfigError


def shipped_configs() -> dict[str, Path]:
    """Name -> path of the configurations that come with the package."""
    folder = Path(str(resources.files("pipeline"))) / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_config(name: str, overrides: list[str] | None = None) -> RunConfig:
    """Reads a YAML file or a shipped configuration, applies `key.sub=value` overrides, checks it.

    Raises ConfigError naming the file and the key.
    """
    shipped = shipped_configs()
    path = Path(name)
    if not path.is_file():
        if name not in shipped:
            raise ConfigError(
                f"{name}: neither a file nor one of the shipped: {', '.join(shipped)}"
            )
        path = shipped[name]
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(raw).__name__}")
    for override in overrides or []:
        _apply(raw, override)
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_explain(path, raw, error)) from error


def _apply(raw: dict[str, Any], override: str) -> None:
    """Sets one dotted key; a labeler is reached by its name: labelers.hate.model=..."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected key=value")
    *parents, last = key.split(".")
    node: Any = raw
    for part in parents:
        if isinstance(node, list):
            node = next((x for x in node if isinstance(x, dict) and x.get("name") == part), None)
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
        if node is None:
            raise ConfigError(f"--set {override}: there is no {part} in {key}")
    if not isinstance(node, dict):
        raise ConfigError(f"--set {override}: {'.'.join(parents)} holds no keys")
    node[last] = yaml.safe_load(text)


Place = Sequence[int | str]


def _explain(path: Path, raw: Any, error: ValidationError) -> str:
    """One line per error: file, dotted key, what is wrong; an unknown key with those there are."""
    lines = []
    for item in error.errors():
        place = item["loc"]
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = _unknown(str(place[-1]), _models_at(place[:-1]))
        lines.append(f"{path}: {_dotted(place, raw) or 'config'}: {message}")
    return "\n".join(lines)


def _unknown(key: str, models: list[type[BaseModel]]) -> str:
    known = sorted({name for model in models for name in model.model_fields})
    close = difflib.get_close_matches(key, known, n=1)
    meant = f", did you mean {close[0]}?" if close else ";"
    return f"unknown key{meant} there are: {', '.join(known)}"


def _dotted(place: Place, raw: Any) -> str:
    """The key as `--set` takes it: an item of a list by its name, no tags of unions."""
    parts, node = [], raw
    for part in place:
        if isinstance(part, int) and isinstance(node, list) and part < len(node):
            node = node[part]
            parts.append(str(node.get("name", part)) if isinstance(node, dict) else str(part))
        elif isinstance(node, dict) and (part in node or part == place[-1]):
            node = node.get(part)
            parts.append(str(part))
    return ".".join(parts)


def _models_at(place: Place) -> list[type[BaseModel]]:
    """The models that may stand at this place; the tag of a union (`kind`) picks one."""
    models: list[type[BaseModel]] = [RunConfig]
    for part in place:
        inner = [
            found
            for model in models
            if part in model.model_fields
            for found in _models_in(model.model_fields[str(part)].annotation)
        ]
        tagged = [m for m in models if "kind" in m.model_fields
                  and part in get_args(m.model_fields["kind"].annotation)]  # fmt: skip
        models = inner or tagged or models
    return models


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model in an annotation such as `list[A | B]`."""
    is_plain = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
    if is_plain and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
