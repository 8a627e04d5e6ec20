"""limner under torchrun, which parses the options of limner first."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed.run
from ports import free_port

from limner.commands.app import _command
from limner.commands.train import train_command
from limner.contract.checkpoint import read_header
from limner.contract.errors import LimnerError

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


@pytest.mark.parametrize("command", ["train", "resume", "evaluate", "compare"])
def test_every_option_has_a_spelling_that_torchrun_passes_on(command: str, capsys):
    options = [param for param in _command(command).params if param.opts[0].startswith("-")]
    assert options
    for option in options:
        spellings = []
        for spelling in option.opts:
            arguments = [command, "x", spelling, "y"]
            try:
                args = torch.distributed.run.parse_args(["-m", "limner", *arguments])
            except SystemExit:
                assert "ambiguous option" in capsys.readouterr().err
            else:
                assert args.training_script_args == arguments
                spellings.append(spelling)
        assert spellings, f"torchrun refuses {option.opts}"


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
    program, *arguments = shlex.split(line[0])
    assert program == "torchrun"
    small = "model.channels=8 train.steps=2 train.batch=4 train.samples=0"
    with free_port() as port:
        env = {"PET_MASTER_PORT": str(port), "PET_LOCAL_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        process = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", *arguments, *small.split()],
            cwd=tmp_path,
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=400,
        )
    assert process.returncode == 0, process.stderr
    assert read_header(tmp_path / arguments[-1] / "model.safetensors").images_seen == 8
