"""The revision of a policy: what its weights and its tokenizer are, not how they are filed.

Light: neither torch nor transformers. The critic and anything else in a subfolder do not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_CHUNK = 1 << 24


def policy_revision(folder: Path | str) -> str:
    """32 hex digits of sha256 over all tensors (name, dtype, shape, bytes) and tokenizer files.

    Sharding, file names and tensor order do not matter, so a saved copy has the same revision.
    Raises FileNotFoundError when the folder has no `*.safetensors`.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"{folder}: no *.safetensors; save the policy there with save_pretrained"
        )
    digest = hashlib.sha256()
    tensors = sorted((name, path, about) for path in files for name, about in _tensors(path))
    for name, path, (start, end, kind) in tensors:
        digest.update(f"{name} {kind}\n".encode())
        with path.open("rb") as file:
            file.seek(start)
            while start < end:
                block = file.read(min(_CHUNK, end - start))
                if not block:
                    raise ValueError(f"{path}: ends within tensor {name}; the file is cut off")
                digest.update(block)
                start += len(block)
    for name in TOKENIZER_FILES:
        path = folder / name
        if path.is_file():
            digest.update(f"{name} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def _tensors(path: Path) -> Iterator[tuple[str, tuple[int, int, str]]]:
    """Name and (start, end, dtype and shape) of every tensor, from the safetensors header."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    for name, about in header.items():
        start, end = (8 + size + offset for offset in about["data_offsets"])
        yield name, (start, end, f"{about['dtype']} {about['shape']}")
