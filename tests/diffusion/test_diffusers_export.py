"""Export to diffusers pipelines: equal networks, equal pictures, or a one-line error."""

import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from diffusers import DDIMPipeline
from safetensors import SafetensorError

from limner import load, save_model, testing
from limner.__main__ import main
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.diffusion.ddpm import DDPM
from limner.diffusion.diffusers.folder import quietly
from limner.diffusion.diffusers.painter import OwnStreams
from limner.nn.plain_unet import PlainUNet, common_groups
from limner.testing.cases import Case

MODELS: dict[str, tuple[ImageSpec, dict[str, Any]]] = {
    "epsilon": (ImageSpec(3, 8, 8), {"channels": (8, 16, 16), "blocks": 2, "T": 20}),
    "v-large": (
        ImageSpec(1, 8, 16),
        {"channels": (32, 64), "attention": 2, "T": 20, "schedule": "cosine"}
        | {"prediction": "v", "variance": "large"},
    ),
    "x-learned": (
        ImageSpec(3, 8, 8),
        {"channels": (8,), "attention": 0, "T": 30, "prediction": "x", "variance": "learned"},
    ),
}


def plain(name: str) -> DDPM:
    """Return a model with a network that diffusers has, and random weights."""
    spec, options = MODELS[name]
    torch.manual_seed(1)
    model = build("ddpm", spec, network="plain", **options).eval()
    assert isinstance(model, DDPM)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model


@pytest.mark.parametrize("name", list(MODELS))
def test_the_network_equals_that_of_diffusers(name):
    model = plain(name)
    unet = model.to_diffusers().unet
    theirs = sum(p.numel() for key, p in unet.named_parameters() if key != "time_proj.weight")
    assert theirs == model.parameter_count()
    x = torch.randn(4, *model.spec.shape)
    k = torch.tensor([1, 2, 7, model.T])
    with torch.no_grad():
        ours = model.network(x, model.schedule.label(k.double() / model.T), Condition())
        torch.testing.assert_close(unet(x, k - 1).sample, ours, rtol=1e-5, atol=1e-5)
    assert ours.std() > 0.1


@pytest.mark.parametrize("name", list(MODELS))
def test_the_exported_folder_paints_the_same_pictures(name, tmp_path):
    """Load the folder as a limner model and run the whole chain, with noise in each step."""
    model = plain(name)
    with quietly():
        model.to_diffusers().save_pretrained(tmp_path)
    theirs: Any = load(tmp_path)
    assert theirs.spec == model.spec
    options = {"seed": 5, "steps": model.T}
    ours = model.sample(2, **options)
    torch.testing.assert_close(theirs.sample(2, **options), ours, rtol=0, atol=1e-4)
    assert ours.std() > 0.1


def test_a_folder_in_half_precision_may_have_one_weight_file_or_several(tmp_path):
    pipeline = plain("epsilon").to_diffusers()
    pipeline.unet.half()
    pictures = []
    for name, size in (("one", "10GB"), ("several", "10KB")):
        with quietly():
            pipeline.save_pretrained(tmp_path / name, variant="fp16", max_shard_size=size)
        model: Any = load(tmp_path / name)
        pictures.append(model.sample(1, seed=5, steps=2))
    assert len([*(tmp_path / "several" / "unet").glob("*.fp16-*-of-*.safetensors")]) > 1
    assert torch.equal(*pictures)


@pytest.mark.parametrize("name", ["epsilon", "v-large"])
def test_ten_steps_of_ddim_equal_those_of_diffusers(name):
    """With `use_clipped_model_output`, diffusers recomputes eps; its tables are float32."""
    model = plain(name)
    pipeline = DDIMPipeline(**model.to_diffusers().components)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 10, "use_clipped_model_output": True, "output_type": "np"}
    with OwnStreams(Noise.sampling(5, 2)):
        images = torch.from_numpy(pipeline(batch_size=2, **options).images)
    theirs = 2 * images.movedim(-1, -3) - 1
    ours = model.sample(2, seed=5, sampler="ddim", steps=10)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("widths", "count"), [((128, 256), 32), ((64, 96), 16), ((8, 12), 2), ((6,), 1), ((2,), 1)]
)
def test_all_norms_have_the_same_number_of_groups(widths, count):
    assert common_groups(widths) == count
    net = PlainUNet(ImageSpec(3, 8, 8), widths, blocks=1, attention=1, dropout=0.0)
    assert {m.groups for m in net.modules() if type(m).__name__ == "NormSiLU"} == {count}


def test_the_plain_network_keeps_the_contract():
    spec = ImageSpec(1, 8, 8, labels=("one", "two", "three"), hint=ImageSpec(1, 8, 8))
    case = Case("plain", DDPM, spec, {"network": "plain", "channels": (8, 8), "T": 20})
    testing.check_turns(case)
    testing.check_condition(case)


def test_the_export_command_writes_a_folder_that_paints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_model(plain("x-learned"), Path("run"))

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["limner", *words])
        with pytest.raises(SystemExit) as error:
            main()
        output = capsys.readouterr()
        return int(error.value.code or 0), output.out + output.err

    assert run("export", "run", "exported") == (0, "exported\n")
    paint = ("sample", "sampler.steps=30", "-n", "3", "-m")
    assert run(*paint, "exported", "-o", "theirs.png")[0] == 0
    assert run(*paint, "run", "-o", "ours.png")[0] == 0
    code, output = run("export", "run", "exported")
    assert (code, output) == (2, "limner: exported is in use; name a new folder\n")
    full = "Error while serializing: I/O error: No space left on device (os error 28)"
    remedy = "make room, or give another path"
    with monkeypatch.context() as context:
        context.setattr("safetensors.torch.save_file", Mock(side_effect=SafetensorError(full)))
        code, output = run("export", "run", "again")
    assert (code, output) == (2, f"limner: cannot write again: {full}; {remedy}\n")
    assert not Path("again").exists()
    save_model(build("edm", ImageSpec(1, 8, 8), channels=(8,)), Path("edm"))
    code, output = run("export", "edm", "other")
    assert code == 2
    assert "those of a edm" not in output
    assert "model.network=plain can be exported" in output
    assert not Path("other").exists()


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        (ImageSpec(1, 8, 8), {}, "no U-Net on patches.*train with model.network=plain"),
        (ImageSpec(1, 8, 8, labels=("a", "b")), {"network": "plain"}, "takes no labels"),
    ],
)
def test_models_without_an_equal_in_diffusers_are_refused(spec, options, said):
    model = build("ddpm", spec, channels=(8,), **options)
    assert isinstance(model, DDPM)
    with pytest.raises(LimnerError, match=said):
        model.to_diffusers()


def test_the_plain_network_has_no_patches():
    with pytest.raises(LimnerError, match=r"leave model\.patch out"):
        build("ddpm", ImageSpec(1, 8, 8), network="plain", patch=2)
