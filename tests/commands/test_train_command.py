"""Signals to `limner train` and `limner resume` outside of a training step."""

import os
import signal
import sys
from pathlib import Path

import pytest

from limner.commands.train import resume_command, train_command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_says_how_to_go_on(
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr("limner.training.memory.check_memory", interrupt)
    monkeypatch.setattr("limner.training.run.resume", interrupt)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as error:
        train_command(["edm", "emoji"], run=tmp_path)
    assert error.value.code == 130
    assert "nothing is lost; to start, type the same command again\n" in capfd.readouterr().err
    (tmp_path / "recipe.toml").touch()
    with pytest.raises(SystemExit) as error:
        resume_command(tmp_path)
    assert error.value.code == 130
    assert f"to continue, type: limner resume {tmp_path}\n" in capfd.readouterr().err
    assert signal.getsignal(number) == before
