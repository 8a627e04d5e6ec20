"""Progress on standard error: what the lines say, and how often they come."""

import sys
from types import SimpleNamespace

import pytest

from limner.runtime import processes, progress
from limner.runtime.progress import TrainingProgress, painting_progress, say


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == "", "standard output is for results"
    return captured.err.splitlines()


def test_training_prints_a_line_every_ten_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]):
    logs = {"critic.loss": 0.123456, "loss": 2.0, "lr": 0.1}
    with TrainingProgress(steps=2000, step=100) as bar:
        for clock.now in (109.9, 110.0, 119.9):
            bar.show(200, logs, 0.5, 32)
        assert lines(capsys) == [
            "step 200/2,000  critic.loss 0.1235  loss 2  64 img/s  0:15:00 left"
        ]
        clock.now = 120.0
        bar.show(2000, {}, 0.5, 32)
        assert lines(capsys) == ["step 2,000/2,000  64 img/s  0:00:00 left"]


def test_a_terminal_shows_the_finished_steps_from_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    with TrainingProgress(steps=2000, step=1500):
        pass
    assert "step 1,500/2,000" in "".join(lines(capsys))
    with TrainingProgress(steps=2000, step=1500) as bar:
        bar.show(1600, {"loss": 2.0}, 0.5, 32)
    text = "".join(lines(capsys))
    assert "step 1,600/2,000" in text and "loss 2  64 img/s  0:03:20 left" in text


def test_painting_prints_a_line_every_ten_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with painting_progress(2000, "judging", unit="shards") as advance:
        for clock.now, by in ((105.0, 100), (110.0, 300), (119.9, 50), (120.0, 49.6)):
            advance(by)
    assert lines(capsys) == [
        "judging 400/2,000 shards  0:00:40 left",
        "judging 500/2,000 shards  0:01:00 left",
    ]
    with painting_progress(2000, quiet=True) as advance:
        clock.now = 140.0
        advance(100)
    assert lines(capsys) == []


def test_only_the_first_process_prints(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(progress, "processes", SimpleNamespace(first=lambda: False))
    say("hello")
    with TrainingProgress(2, 0) as bar, painting_progress(2) as advance:
        clock.now = 120.0
        bar.show(1, {}, 0.5, 32)
        advance(1)
    assert lines(capsys) == []
    monkeypatch.setattr(progress, "processes", processes)
    say("hello")
    assert lines(capsys) == ["hello"]


def test_a_program_without_standard_error_shows_no_progress(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", None)
    with TrainingProgress(steps=2, step=0) as bar, painting_progress(2) as advance:
        bar.show(1, {}, 0.5, 32)
        advance(1.0)
        say("finished")
