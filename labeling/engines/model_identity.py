"""Which model a name means, as an immutable revision: a content hash or a Hub commit.

Light: neither torch nor transformers. "latest" is no revision: a Hub id resolves to the commit that
lies in the local cache, or, without one, to the commit that the Hub names now.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from labeling.engines.config import JudgeEngineConfig, TransformersEngineConfig, VllmEngineConfig
from labeling.errors import LabelingError, Misconfigured, one_line
from warehouse.files import file_sha256, text_sha256

# Whatever decides what a model in a folder computes: configuration, weights, tokenizer, template.
_SUFFIXES = {".json", ".safetensors", ".bin", ".txt", ".model", ".jinja"}
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ModelIdentity:
    """What to load (`location`, at Hub commit `commit` or None for a folder) and its revision."""

    location: str
    commit: str | None
    revision: str


def identify_model(
    model: str, revision: str | None, resolve: Callable[[str], str]
) -> ModelIdentity:
    """The identity of a starter, a folder or a Hub id. Raises Misconfigured when there is none."""
    location = resolve(model)
    folder = Path(location).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise Misconfigured(
                f"model {model}: {folder} has no config.json; is it a model folder?"
            )
        return ModelIdentity(str(folder), None, _folder_revision(folder))
    if location.startswith((".", "/", "~")):
        raise Misconfigured(f"model {model}: there is no folder {location}")
    commit = _hub_commit(location, revision)
    return ModelIdentity(location, commit, commit)


@contextmanager
def loading(key: str, model: str) -> Iterator[None]:
    """Whatever the libraries raise over a model that cannot be loaded, as one line naming both."""
    try:
        yield
    except LabelingError:
        raise
    except Exception as error:
        raise Misconfigured(f"{key}: cannot load {model}: {one_line(error)}") from error


def engine_model(engine: JudgeEngineConfig, resolve: Callable[[str], str]) -> ModelIdentity:
    """The identity of the model that an engine runs or asks for. Raises Misconfigured.

    A remote model is its id and where it is asked for; nobody outside can see more of it.
    """
    if isinstance(engine, VllmEngineConfig | TransformersEngineConfig):
        return identify_model(engine.model, engine.revision, resolve)
    settings = engine.model_dump(mode="json")
    place = str(settings.get("region") or settings.get("base_url") or "")
    scheme, found, rest = place.rpartition("://")
    place = scheme + found + rest.rpartition("@")[2]  # a password in an address is no identity
    return ModelIdentity(engine.model, None, f"{engine.model}@{place}" if place else engine.model)


def _folder_revision(folder: Path) -> str:
    """32 hex digits over the names and contents of a model folder's files."""
    lines = []
    for path in sorted(folder.iterdir()):
        if path.suffix in _SUFFIXES and path.is_file():
            status = path.stat()
            content = _content_sha256(path, status.st_size, status.st_mtime_ns)
            lines.append(f"{path.name} {content}\n")
    return text_sha256("".join(lines))[:32]


@lru_cache(maxsize=256)
def _content_sha256(path: Path, size: int, modified_ns: int) -> str:
    """Hash of a file; size and time are in the cache's key, so a changed file is read again."""
    del size, modified_ns
    return file_sha256(path)


@lru_cache(maxsize=64)
def _hub_commit(model: str, revision: str | None) -> str:
    """The commit hash of a Hub id; the local cache decides before the network does."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    advice = "check the name, download the model first, or name a local folder"
    try:
        cached = try_to_load_from_cache(model, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
        commit = HfApi().model_info(model, revision=revision, timeout=20).sha
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        message = f"model {model}: no folder, and not on the Hub: {error}; {advice}"
        raise Misconfigured(message) from error
    if commit is None:
        raise Misconfigured(f"model {model}: the Hub names no commit for it; {advice}")
    return commit
