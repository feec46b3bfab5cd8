"""Heartbeats add up, survive being half-written, and show as lines without a terminal."""

from __future__ import annotations

import io
import time

from pipeline.runtime.progress import Heartbeat, StageDisplay, read_progress


def test_heartbeats_of_all_workers_add_up(tmp_path):
    assert read_progress(tmp_path) is None
    first, second = Heartbeat(tmp_path, "0", 10, "labels"), Heartbeat(tmp_path, "1", 5, "labels")
    first.update(10, loss=0.5)
    second.advance(2)
    second.advance(3)
    (tmp_path / "progress-2.json").write_text('{"done": ')
    progress = read_progress(tmp_path)
    assert progress is not None
    assert (progress.done, progress.total, progress.unit) == (15, 15, "labels")
    assert progress.fields == {"loss": 0.5}


def test_without_a_terminal_a_line_says_rate_and_time_left(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.runtime.progress.LINE_SECONDS", 0.05)
    folder = tmp_path / "stage-abc"
    folder.mkdir()
    stream = io.StringIO()
    with StageDisplay("sampling", tmp_path / "stage-*", stream):
        Heartbeat(folder, "0", 100, "completions").update(100)
        time.sleep(0.8)
    assert "sampling: 100/100 completions, " in stream.getvalue()
    assert "/s, 0 s left" in stream.getvalue()


def test_on_a_terminal_a_bar_is_drawn(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with StageDisplay("labelling", tmp_path / "stage-*", stream):
        folder = tmp_path / "stage-abc"
        folder.mkdir()
        Heartbeat(folder, "0", 8, "labels").update(8)
        time.sleep(0.6)
    assert "labelling" in stream.getvalue()
    assert "8/8" in stream.getvalue()
