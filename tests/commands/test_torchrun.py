"""limner under torchrun, which parses the options of limner first."""

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed.run

from limner.commands.app import _command
from limner.commands.train import train_command
from limner.contract.checkpoint import read_header
from limner.contract.errors import LimnerError

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


@pytest.mark.parametrize("command", ["train", "resume", "evaluate", "compare"])
def test_every_option_has_a_spelling_that_torchrun_passes_on(command: str, capsys):
    options = [each for each in _command(command).params if each.opts[0].startswith("-")]
    assert options
    for option in options:
        passed_on = []
        for spelling in option.opts:
            given = [command, "x", spelling, "y"]
            try:
                read = torch.distributed.run.parse_args(["-m", "limner", *given])
            except SystemExit:
                assert "ambiguous option" in capsys.readouterr().err
            else:
                assert read.training_script_args == given
                passed_on.append(spelling)
        assert passed_on, f"torchrun refuses {option.opts}"


def test_processes_that_may_be_restarted_need_a_given_folder(
    monkeypatch: pytest.MonkeyPatch,
):
    """Otherwise they would take the next free folder and start again from step 0."""
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(LimnerError, match="type -r runs/edm-emoji"):
        train_command(["edm", "emoji"])


def test_the_documented_command_trains(tmp_path: Path):
    line = re.search(r"^torchrun .*", DOCS.read_text(), re.MULTILINE)
    assert line
    program, *words = shlex.split(line[0])
    assert program == "torchrun"
    small = "model.channels=8 train.steps=2 train.batch=4 train.samples=0"
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    place = {"PET_MASTER_PORT": str(port), "PET_LOCAL_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words, *small.split()],
        cwd=tmp_path,
        env=os.environ | place,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert read_header(tmp_path / words[-1] / "model.safetensors").images_seen == 8
