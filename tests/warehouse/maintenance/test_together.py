"""Everything that rewrites history, in random order, against a model that only keeps sets.

The model knows, of every version, which rollouts were live; a forgotten prompt leaves all of them.
Whatever the order of publishing, amending, compacting, forgetting and vacuuming, every version that
can be read has exactly the model's rows, by table and by key.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.warehouse.builder import prompt, publish_rows, rollout
from tests.warehouse.opened import read_table
from warehouse.errors import Vacuumed
from warehouse.ledger.ledger import Ledger
from warehouse.maintenance.compaction import compact
from warehouse.maintenance.forgetting import forget
from warehouse.maintenance.vacuum import vacuum
from warehouse.maintenance.verify import verify
from warehouse.publish import publish
from warehouse.schemas import table_from_rows
from warehouse.store import open_store

PROMPTS = [f"q{n}" for n in range(6)]


class Model:
    """Ids of live rollouts by key, for each version; `forgotten` prompts count for all of them."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.draw = root, random.Random(seed)
        self.versions: list[dict[str, set[str]]] = []
        self.forgotten: set[str] = set()
        self.oldest = 0
        publish_rows(root, "prompts", prompts=[prompt(name) for name in PROMPTS])
        self.committed({})

    def committed(self, changes: dict[str, set[str]]) -> None:
        """As many equal versions as the ledger grew by, the last with the changes."""
        before = self.versions[-1] if self.versions else {}
        while len(self.versions) <= Ledger(open_store(self.root)).head():
            self.versions.append(before | changes)

    def publish(self) -> None:
        key, number = f"work-{len(self.versions)}", self.draw.randrange(3)
        index = len(self.versions)
        rows = [rollout(number, name, index) for name in self.draw.sample(PROMPTS, 3)]
        publish_rows(self.root, key, number, rollouts=rows)
        self.committed({key: self._kept(rows)})

    def amend(self, *, replaces: bool) -> None:
        """More rows for a key, beside its files or in their place."""
        keys = sorted(self.versions[-1])
        if not keys:
            return
        key, index = self.draw.choice(keys), len(self.versions)
        files = Ledger(open_store(self.root)).files_of([key])
        number = files[0].round if files else 0
        rows = [rollout(int(number or 0), name, index) for name in self.draw.sample(PROMPTS, 2)]
        publish(
            self.root,
            f"{key}/again-{index}",
            {"rollouts": table_from_rows("rollouts", rows)},
            round=number,
            remove=[file.path for file in files] if replaces else [],
            meta={"amends": key},
        )
        kept = set() if replaces else self.versions[-1][key]
        self.committed({key: kept | self._kept(rows)})

    def _kept(self, rows: list[dict[str, object]]) -> set[str]:
        """What publish takes: nothing of a prompt that is forgotten already."""
        return {str(r["rollout_id"]) for r in rows if r["prompt_id"] not in self.forgotten}

    def forget(self) -> None:
        name = self.draw.choice(PROMPTS)
        forget(self.root, [name], by="ann", why="asked")
        self.forgotten.add(name)
        self.committed({})

    def compact(self) -> None:
        compact(self.root)
        self.committed({})

    def vacuum(self) -> None:
        done = vacuum(self.root, keep_versions=self.draw.randint(2, 12))
        self.oldest = max(self.oldest, done.oldest)
        self.committed({})

    def rows(self, version: int) -> dict[str, set[str]]:
        return {
            key: {i for i in ids if i.split("-")[1] not in self.forgotten}
            for key, ids in self.versions[version].items()
        }


@pytest.mark.parametrize("seed", range(3))
def test_every_version_has_the_rows_of_the_model(tmp_path: Path, seed: int) -> None:
    model = Model(tmp_path, seed)
    steps = [
        *(model.publish,) * 4,
        *(lambda: model.amend(replaces=False), lambda: model.amend(replaces=True)) * 2,
        *(model.compact, model.vacuum, model.forget),
    ]
    for _ in range(18):
        model.draw.choice(steps)()
    assert verify(tmp_path, all_versions=True).problems == ()
    readable = 0
    for version in range(len(model.versions)):
        expected = model.rows(version)
        try:
            found = read_table(tmp_path, "rollouts", as_of=version)["rollout_id"].to_pylist()
        except Vacuumed:
            assert version < model.oldest
            continue
        readable += 1
        assert sorted(found) == sorted(i for ids in expected.values() for i in ids)
        for key, ids in expected.items():
            work = read_table(tmp_path, "rollouts", as_of=version, keys=[key])
            assert set(work["rollout_id"].to_pylist()) == ids
    assert readable >= len(model.versions) - model.oldest
