"""How far a build of starters is, as the driver reads it."""

from __future__ import annotations

from pathlib import Path

from pipeline.policies.policies import building_progress
from pipeline.runtime.progress import read_progress


def test_the_progress_of_a_build_never_goes_backwards(tmp_path: Path) -> None:
    """However fast the steps come, and whichever model they belong to."""
    models = ["starter-policy"] * 30 + ["starter-judge"] * 20
    show = building_progress(tmp_path)
    counts = []
    for done, model in enumerate(models, 1):
        show(model, done, len(models))
        progress = read_progress(tmp_path)
        assert progress is not None
        counts.append(progress.done)
        assert progress.total in (0, len(models))  # 0: nothing is known yet
    assert counts == sorted(counts)
    assert counts[-1] == len(models)
