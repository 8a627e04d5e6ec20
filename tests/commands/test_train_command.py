"""Signals to `limner train` and `limner resume` outside of a training step, and their last line."""

import os
import signal
import sys
from pathlib import Path

import pytest

from limner.commands.train import _report_result, resume_command, train_command
from limner.contract.bundled import bundled_models


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


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("gan", "paint with it: limner sample -m {} -n 16"),
        ("3d-to-line", "translate with it: limner translate IMAGE -m {}"),
        ("upscaler", "enlarge with it: limner upscale IMAGE -m {}"),
        ("instruct", "edit with it: limner edit IMAGE --instruct WORDS -m {}"),
        ("lenet", "trained: {}/model.safetensors (curves.png next to it)"),
    ],
)
def test_the_last_line_says_what_the_model_can_do(
    name: str, last: str, capfd: pytest.CaptureFixture[str]
):
    folder = bundled_models()[name]
    _report_result(folder)
    assert capfd.readouterr().out.splitlines()[-1] == last.format(folder)
