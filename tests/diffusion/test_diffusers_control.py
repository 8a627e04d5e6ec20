"""A separate ControlNet of diffusers together with a pipeline."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pipelines
import pytest
import torch
from PIL import Image
from pipelines import SCHEDULERS, opened

from limner import text_condition
from limner.__main__ import main
from limner.contract.errors import LimnerError
from limner.contract.image import Condition

pytestmark = pytest.mark.filterwarnings(  # from diffusers' own tables
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a pipeline, two separate ControlNets, and the pipeline with the first ControlNet."""
    home = tmp_path_factory.mktemp("controls")
    pipelines.stable_diffusion(home / "sd", SCHEDULERS["ddim"]())
    plain = opened(home / "sd").pipeline
    pipelines.control_over(plain).save_pretrained(home / "edges")
    pipelines.control_over(plain, channels=3, seed=5).save_pretrained(home / "colours")
    pipelines.controlled(home / "whole", home / "sd")
    drawing = np.zeros((16, 16), np.uint8)
    drawing[4:12, 4:12] = 255
    Image.fromarray(drawing).save(home / "drawing.png")
    return home


@pytest.fixture
def run_sample(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    monkeypatch.chdir(home)

    def run(*arguments: str) -> tuple[int, str]:
        command = ["sample", "a dog", *arguments, "sampler.steps=2", "-o", "out.png"]
        monkeypatch.setattr(sys, "argv", ["limner", *command])
        with pytest.raises(SystemExit) as error:
            main()
        return int(error.value.code or 0), capsys.readouterr().err.strip()

    return run


def painted(run_sample: Run, *arguments: str) -> np.ndarray:
    Path("out.png").unlink(missing_ok=True)
    code, message = run_sample(*arguments)
    assert code == 0, message
    return np.array(Image.open("out.png"))


def test_it_equals_the_pipeline_saved_with_the_controlnet(run_sample: Run):
    hint = ("--hint", "drawing.png")
    controlled = painted(run_sample, "-m", "sd", "--control", "edges", *hint)
    Path("out.png").rename("over.png")
    assert np.array_equal(controlled, painted(run_sample, "--from", "over.png"))
    assert np.array_equal(controlled, painted(run_sample, "-m", "whole", *hint))
    plain = painted(run_sample, "-m", "sd")
    assert not np.array_equal(controlled, plain)
    unchanged = painted(run_sample, "-m", "sd", "--control", "edges", *hint, "--strength", "0")
    assert np.abs(unchanged.astype(int) - plain).max() <= 1


def test_several_controlnets_add_up_each_with_its_hint_and_strength(home: Path):
    sd, controls = opened(home / "sd"), [opened(home / name) for name in ("edges", "colours")]
    both = sd.join(controls)
    edges, colours = torch.rand(1, 1, 16, 16) * 2 - 1, torch.rand(1, 3, 16, 16) * 2 - 1
    text = text_condition(both.spec, ["a dog"]).text
    c = Condition(text=text, image=torch.cat([edges, colours], dim=1))
    options: dict[str, Any] = {"seed": 4, "steps": 3, "scale": 3.0}
    one = sd.join(controls[:1]).sample(1, Condition(text=text, image=edges), **options)
    first = both.sample(1, c, control_weights=(1.0, 0.0), **options)
    torch.testing.assert_close(first, one, rtol=0, atol=1e-5)
    half = both.sample(1, c, control_strength=0.5, control_weights=(2.0, 0.0), **options)
    torch.testing.assert_close(half, one, rtol=0, atol=1e-5)
    assert (both.sample(1, c, **options) - one).abs().max() > 1e-3
    assert [hint.channels for hint in both.hints] == [1, 3] and not sd.hints
    with pytest.raises(LimnerError, match="control_weights=1: the model has 2 controls; give one"):
        both.sample(1, c, control_weights=(1.0,), **options)
    with pytest.raises(LimnerError, match="needs a pipeline; give its folder"):
        controls[0].sample(1, Condition(image=edges), seed=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--control", "edges"], "needs a pipeline; give its folder, too, as -m PIPELINE"),
        (["-m", "emoji", "--control", "edges"], "needs a pipeline; give its folder, too"),
        (["-m", "sd", "--control", "sd/unet"], "neither a model nor a ControlNet of"),
        (["-m", "whole", "--control", "edges"], "this pipeline has a ControlNet already"),
        (["-m", "sd", "--control", "other"], "with block_out_channels=[8, 8], and the pipeline's"),
    ],
)
def test_unsuitable_controlnets_are_refused_in_one_line(
    arguments: list[str], message: str, home: Path, run_sample: Run
):
    if "other" in arguments:
        network = opened(home / "sd").pipeline.unet
        other = diffusers.UNet2DConditionModel.from_config(
            {**network.config, "block_out_channels": [8, 8]}
        )
        control = diffusers.ControlNetModel.from_unet(
            other, conditioning_embedding_out_channels=(8, 16)
        )
        control.save_pretrained(home / "other")
    code, err = run_sample(*arguments, "--hint", "drawing.png")
    assert code == 2 and message in err.splitlines()[-1], err
