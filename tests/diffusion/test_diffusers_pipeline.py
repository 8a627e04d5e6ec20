"""Pipelines of diffusers as models: the same pictures as diffusers from limner's noise."""

import json
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pipelines
import pytest
import torch
from PIL import Image
from pipelines import SCHEDULERS, opened
from torch import Tensor

from limner import text_condition
from limner.__main__ import main
from limner.commands.request import SamplingRequest
from limner.commands.sheets.edit import edit_sheet
from limner.contract.checkpoint import digest, load, model_file
from limner.contract.errors import LimnerError
from limner.contract.image import Condition
from limner.contract.noise import Blend, Noise
from limner.data.png import read_settings
from limner.diffusion.diffusers import folder, painter
from limner.studio import catalogue

pytestmark = pytest.mark.filterwarnings(  # from diffusers' own tables
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("pipelines")
    pipelines.unconditional(home / "ddpm")
    pipelines.stable_diffusion(home / "sd", SCHEDULERS["ddim"]())
    pipelines.classes(home / "dit")
    return home


@pytest.fixture(scope="module")
def ddpm(home: Path) -> Any:
    return opened(home / "ddpm")


@pytest.fixture(scope="module")
def sd(home: Path) -> Any:
    return opened(home / "sd")


def scheduled(model: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the pipeline another scheduler; return the model."""
    monkeypatch.setattr(model.pipeline, "scheduler", SCHEDULERS[name]())
    return model


def as_pictures(images: Any) -> Tensor:
    """Convert a pipeline's "np" output to pictures in [-1, 1]."""
    return 2 * torch.from_numpy(images).permute(0, 3, 1, 2) - 1


@pytest.mark.parametrize("scheduler", ["ddim", "pndm"])
def test_it_equals_the_pipeline_with_the_same_noise(sd, scheduler, monkeypatch):
    model = scheduled(sd, scheduler, monkeypatch)
    options = {"num_inference_steps": 5, "guidance_scale": 3.0, "negative_prompt": ["a cat"] * 2}
    z = Noise.sampling(7, 2).normal(4, 8, 8)
    output = model.pipeline(["a red dog", ""], latents=z, output_type="np", **options)
    c = replace(
        text_condition(model.spec, ["a red dog", ""]),
        avoid=text_condition(model.spec, ["a cat"] * 2).text,
    )
    x = model.sample(2, c, seed=7, steps=5, scale=3.0)
    torch.testing.assert_close(x, as_pictures(output.images), rtol=0, atol=1e-5)
    usual = model.sample(2, c, seed=7, steps=5)
    assert (usual - x).abs().max() > 1e-3, "the default must be the pipeline's own guidance scale"
    output = model.pipeline("", latents=z[:1], output_type="np", num_inference_steps=2)
    x = model.sample(1, seed=7, steps=2)
    torch.testing.assert_close(x, as_pictures(output.images), rtol=0, atol=1e-5)


def test_a_pipeline_with_a_controlnet_follows_its_hint(home, tmp_path):
    model = opened(pipelines.controlled(tmp_path / "controlled", home / "sd"))
    assert model.spec.hint is not None and model.spec.hint.shape == (1, 16, 16)
    hint = torch.rand(1, 1, 16, 16) * 2 - 1
    z = Noise.sampling(7, 1).normal(4, 8, 8)
    control_settings = {"controlnet_conditioning_scale": 0.7, "control_guidance_end": 0.5}
    settings = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "np"}
    output = model.pipeline(
        ["a dog"], image=(hint + 1) / 2, latents=z, **settings, **control_settings
    )
    c = replace(text_condition(model.spec, ["a dog"]), image=hint)
    options: dict[str, Any] = {"seed": 7, "steps": 4, "scale": 3.0}
    x = model.sample(1, c, control_strength=0.7, control_interval=(0.0, 0.5), **options)
    torch.testing.assert_close(x, as_pictures(output.images), rtol=0, atol=1e-5)
    bare = model.sample(1, c, control_strength=0.0, **options)
    plain = opened(home / "sd").sample(1, replace(c, image=None), **options)
    torch.testing.assert_close(bare, plain, rtol=0, atol=1e-5)
    assert (x - bare).abs().max() > 1e-3
    with pytest.raises(LimnerError, match="paints from a conditioning image; give sample --hint"):
        model.sample(1, text_condition(model.spec, ["a dog"]), **options)
    with pytest.raises(LimnerError, match="this pipeline has no ControlNet"):
        opened(home / "sd").sample(1, control_strength=0.5, steps=2)


def test_noise_within_steps_comes_from_the_pictures_streams(ddpm, monkeypatch):
    """DDPM takes no latents: with its draws replaced it gives the same pictures."""
    noise = Noise.sampling(3, 2)

    def draw(shape: Any, *_: Any, **__: Any) -> Tensor:
        return noise.normal(*shape[1:])

    with monkeypatch.context() as patch:
        patch.setattr("diffusers.pipelines.ddpm.pipeline_ddpm.randn_tensor", draw)
        patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", draw)
        output = ddpm.pipeline(batch_size=2, num_inference_steps=6, output_type="np")
    x = ddpm.sample(2, seed=3, steps=6)
    torch.testing.assert_close(x, as_pictures(output.images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("which", ["ddpm", "sd", "dit"])
def test_pictures_do_not_depend_on_the_batch_or_the_global_generator(which, home, monkeypatch):
    model = opened(home / which)
    c = Condition()
    if which == "sd":
        scheduled(model, "noisy", monkeypatch)
        c = text_condition(model.spec, list("abcde"))
    elif which == "dit":
        c = Condition(label=torch.tensor([3, 500, -1, 999, 0]))
    before = torch.get_rng_state()
    many = model.sample(5, c, seed=10, steps=4)
    few = model.sample(2, c.rows(slice(3, 5)), seed=13, steps=4)
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(many[3:], few, rtol=0, atol=1e-4)
    assert (many[3] - many[4]).abs().max() > 1e-3
    monkeypatch.setattr(model, "at_once", 2)
    torch.testing.assert_close(model.sample(5, c, seed=10, steps=4), many, rtol=0, atol=1e-4)


def test_seeds_blend(ddpm):
    ends = ddpm.sample(2, seed=[1, 2], steps=5)
    same, near, far = ddpm.sample(
        3, seed=[Blend(1, 2, 0.0), Blend(1, 2, 0.1), Blend(1, 2, 1.0)], steps=5
    )
    torch.testing.assert_close(same, ends[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(far, ends[1], rtol=0, atol=1e-5)
    assert 0 < (near - ends[0]).abs().mean() < (far - ends[0]).abs().mean()


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
def test_there_is_a_frame_for_each_step_and_the_last_is_the_picture(sd, scheduler, monkeypatch):
    model = scheduled(sd, scheduler, monkeypatch)
    options = {"seed": 4, "steps": (steps := 4)}
    picture = model.sample(2, **options)
    for views, kinds in ((2, 2), (0, 1), (steps + 1, steps)):
        frames = list(model.watch(2, views=views, **options))
        assert len(frames) == model.frame_count(steps=steps)
        assert torch.equal(frames[-1], picture)
        assert len({tuple(frame.flatten().tolist()) for frame in frames[:-1]}) >= kinds
        assert bool((frames[0] == 0).all()) == (views == 0), (
            "the first frames must be grey if nothing is shown yet"
        )


def test_frames_are_the_clean_pictures_of_each_step(ddpm, monkeypatch):
    """Frames are the clipped x_hat of DDPM's equation 15 at the scheduler's x_t."""
    previews: list[Tensor] = []

    class Recording(diffusers.DDPMScheduler):
        def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any):
            alpha_bar = self.alphas_cumprod[timestep]
            x_hat = (sample - (1 - alpha_bar).sqrt() * model_output) / alpha_bar.sqrt()
            previews.append(x_hat.clamp(-1, 1))
            return super().step(model_output, timestep, sample, **options)

    monkeypatch.setattr(ddpm.pipeline, "scheduler", Recording())
    frames = list(ddpm.watch(2, seed=1, steps=5))
    torch.testing.assert_close(frames[:-1], previews, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("PNDM", "epsilon"),
        ("DPMSolverMultistep", "v_prediction"),
        ("UniPCMultistep", "sample"),
        ("EulerDiscrete", "epsilon"),
        ("FlowMatchEulerDiscrete", "flow"),
    ],
)
def test_an_exact_network_gives_the_exact_preview(kind, said):
    x, eps = torch.rand(2, 3, 4, 4) * 2 - 1, torch.randn(2, 3, 4, 4)
    if said == "flow":
        scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        scheduler.set_timesteps(10)
        t = scheduler.timesteps[4]
        x_t, F = scheduler.scale_noise(x, t[None], eps), eps - x
    else:
        scheduler = getattr(diffusers, f"{kind}Scheduler")(prediction_type=said)
        scheduler.set_timesteps(10)
        t = scheduler.timesteps[4]
        alpha_bar = scheduler.alphas_cumprod[int(t)]
        x_t = alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * eps
        F = {
            "epsilon": eps,
            "sample": x,
            "v_prediction": alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x,
        }[said]
        if kind == "EulerDiscrete":  # it takes x + sigma eps
            x_t = x_t / alpha_bar.sqrt()
    previews: list[Tensor] = []
    with painter.watching(scheduler, previews.append):
        scheduler.step(F, t, x_t)
    torch.testing.assert_close(previews[0], x, rtol=0, atol=2e-3)
    assert "step" not in vars(scheduler), "the scheduler was changed"


def test_closing_watch_stops_the_painting_thread(sd):
    painting = sd.watch(1, steps=50)
    next(painting)
    assert any(thread.name == "iterate_callback" for thread in threading.enumerate())
    painting.close()
    assert not any(thread.name == "iterate_callback" for thread in threading.enumerate())
    assert torch.equal(list(sd.watch(1, steps=2))[-1], sd.sample(1, steps=2))


def test_watch_uses_autocast_and_raises_errors(sd):
    with torch.autocast("cpu", torch.bfloat16):
        x = sd.sample(1, steps=2)
        assert torch.equal(list(sd.watch(1, steps=2))[-1], x)
    assert not torch.equal(sd.sample(1, steps=2), x)
    with pytest.raises(LimnerError, match=r"StableDiffusionPipeline refuses this: .*by 8"):
        list(sd.watch(1, steps=2, height=18))


def test_editing_equals_the_image_to_image_pipeline(sd):
    """With a strength, limner's noise, and a frame for each step."""
    x, c = torch.rand(2, 3, 16, 16) * 2 - 1, text_condition(sd.spec, ["a dog", "a cat"])
    settings = {
        "strength": 0.5,
        "num_inference_steps": 6,
        "output_type": "np",
        "guidance_scale": 3.0,
    }
    pipeline = diffusers.StableDiffusionImg2ImgPipeline(
        **sd.pipeline.components, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    with painter.OwnStreams(Noise.sampling(4, 2)):
        output = pipeline(["a dog", "a cat"], image=(x + 1) / 2, **settings)
    options = {"strength": 0.5, "seed": 4, "steps": 6, "scale": 3.0}
    frames = list(sd.edit(x, c, **options))
    torch.testing.assert_close(frames[-1], as_pictures(output.images), rtol=0, atol=1e-5)
    assert len(frames) == sd.edit_count(0.5, steps=6) == 4
    assert sd.effective_strength(0.5, steps=6) == 0.5 and sd.effective_strength(0.7, steps=4) == 0.5
    single = list(sd.edit(x[1:], c.rows(slice(1, 2)), preview=False, **(options | {"seed": 5})))
    torch.testing.assert_close(single[-1], frames[-1][1:], rtol=0, atol=1e-5)


def test_pixels_outside_the_mask_are_kept(sd, home, tmp_path):
    x, mask = torch.rand(2, 3, 16, 16) * 2 - 1, torch.zeros(2, 1, 16, 16)
    mask[:, :, 8:] = 1
    frames = list(sd.edit(x, mask=mask, steps=3, seed=1))
    assert len(frames) == 4
    for frame in frames:
        torch.testing.assert_close(frame[:, :, :8], x[:, :, :8], rtol=0, atol=1e-6)
    assert (frames[-1] - x)[:, :, 8:].abs().mean() > 0.1
    Image.new("RGB", (16, 16)).save(tmp_path / "picture.png")
    with pytest.raises(LimnerError, match="take each step once; leave rounds out"):
        edit_sheet([tmp_path / "picture.png"], SamplingRequest(str(home / "sd")), rounds=2)


def test_classes_have_names_and_no_label_draws_a_class(home):
    model = opened(home / "dit")
    assert model.spec.label_index("thing 017") == 17
    expected = []
    for label in (17, 18):
        with painter.OwnStreams(Noise.sampling(2, 1)):
            options = {"num_inference_steps": 3, "output_type": "np"}
            expected.append(as_pictures(model.pipeline(class_labels=[label], **options).images))
    x = model.sample(1, Condition(label=torch.tensor([17])), seed=2, steps=3)
    torch.testing.assert_close(x, expected[0], rtol=0, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    pictures = model.sample(4, seed=2, steps=3)
    assert len({tuple(picture.flatten().tolist()) for picture in pictures}) == 4, (
        "every picture must get a random class"
    )


def test_height_and_width_are_options(sd):
    assert sd.sample(1, steps=2, height=8, width=24).shape == (1, 3, 8, 24)
    with pytest.raises(LimnerError, match=r"not a multiple of 2.* give height=18"):
        sd.sample(1, steps=2, height=17)


def test_the_pipeline_gets_the_prompt_as_written(sd):
    for prompt in ("A  red (dog:1.2), 4k", "犬 🐕", "\ud800", "x" * 1500):
        c = text_condition(sd.spec, [prompt, ""], lambda line: None)
        assert sd._prompt_texts(c.text) == [
            prompt.replace("🐕", "dog").encode("utf-8", "replace").decode()[:1000],
            "",
        ]


@pytest.fixture
def limner_(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("LIMNER_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["limner", *arguments])
        with pytest.raises(SystemExit) as error:
            main()
        output = capsys.readouterr()
        return int(error.value.code or 0), output.out, output.err

    return run


def test_the_commands_accept_a_pipeline(home: Path, limner_):
    options = ("-n", "2", "sampler.steps=3", "-o", "a.png", "--strip", "--vary", "0.2")
    code, out, _ = limner_("sample", "a red dog", "-m", "sd", "--negative", "a cat", *options)
    assert (code, out.split()) == (0, ["a.png", "a-strip.png"])
    settings = read_settings("a.png")
    assert settings is not None
    assert settings["sampler"] == {"steps": 3, "scale": 7.5, "views": 4}
    result = limner_("sample", "--from", "a.png", "-o", "b.png")
    assert result[0] == 0
    assert Image.open("a.png").tobytes() == Image.open("b.png").tobytes()
    (home / "real").mkdir()
    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(home / "real" / f"{i}.png")
    arguments = ("sampler.steps=2", "--against", "folder:real", "--metrics", "kid", "-n", "12")
    arguments += ("--extractor", "lenet", "--json")
    code, out, _ = limner_("evaluate", "ddpm", *arguments)
    report = json.loads(out)
    assert code == 0
    assert "kid" in json.dumps(report)
    code, out, _ = limner_("compare", "ddpm", "real", *arguments)
    assert code == 0
    assert limner_("models", "diffusers")[1].strip().endswith("FOLDER contains model_index.json")
    assert "diffusers" in limner_("models")[1]


def test_the_studio_finds_and_describes_it(home: Path):
    assert folder.INDEX == catalogue.PIPELINE
    models = catalogue.find_models(home)
    assert {"sd", "ddpm", "dit"} <= models.keys()
    assert not [name for name in models if "/" in name], "parts of a pipeline are listed as models"
    description = catalogue.describe_model("sd", models["sd"])
    assert description is not None
    assert description["text"]
    assert description["usual"] == {"steps": 50, "scale": 7.5}
    assert description["parameters"] == sum(p.numel() for p in opened(home / "sd").parameters())


def test_the_fingerprint_depends_on_every_part(home: Path, tmp_path: Path):
    folder = Path(shutil.copytree(home / "sd", tmp_path / "sd"))
    digests = {digest(model_file(home / "sd"))}
    assert digest(model_file(folder)) in digests, "the fingerprint must not depend on the path"
    for part in ("vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        (folder / part).write_bytes((folder / part).read_bytes() + b" ")
        digests.add(digest(model_file(folder)))
    assert len(digests) == 3


def rewrite(**values: Any) -> Callable[[Path], None]:
    """Return a function that changes values of the index file."""

    def change(folder: Path) -> None:
        file = folder / "model_index.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def as_pickle(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


def truncate(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def test_classes_with_equal_names_get_their_number(tmp_path):
    names = {"0": "crane", "1": "kite", "2": "crane"}
    (tmp_path / folder.INDEX).write_text(json.dumps({"id2label": names}))
    assert folder._labels(tmp_path, {}) == ("crane", "kite", "crane (2)")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (as_pickle, r"only diffusion_pytorch_model\.bin, which may run code; .*safe_serialization"),
        (lambda at: shutil.rmtree(at / "unet"), r"lacks its part unet/; copy it again"),
        (lambda at: (at / "unet/config.json").write_text("{"), "config.json is damaged"),
        (lambda at: (at / "model_index.json").write_text("[]"), "holds no object"),
        (lambda at: (at / "scheduler/scheduler_config.json").unlink(), "diffusers cannot open"),
        (truncate, "diffusers cannot open .*; copy it again"),
        (rewrite(_class_name=["mine", "Mine"]), "has its own code"),
        (rewrite(unet=["mine", "Mine"]), r"has its own code for 'unet' \(mine\)"),
        (lambda at: (at / "pipeline.py").write_text("1 / 0"), "has its own code"),
        (rewrite(_class_name="NoSuchPipeline"), "pip install -U diffusers"),
        (rewrite(_class_name="os"), "pip install -U diffusers"),
        (rewrite(_class_name="StableDiffusionUpscalePipeline"), "diffusers cannot open"),
    ],
)
def test_the_error_states_why_a_folder_cannot_be_opened(home, tmp_path, damage, said):
    folder = Path(shutil.copytree(home / "ddpm", tmp_path / "ddpm"))
    damage(folder)
    with pytest.raises(LimnerError, match=said) as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sample", "a dog", "-m", "ddpm"), "trained without text; leave the prompt out"),
        (("sample", "-m", "ddpm", "sampler.width=16"), "paints only 8 x 8 pictures"),
        (("sample", "-m", "ddpm", "sampler.scale=2"), r"no such option; leave sampler\.scale out"),
        (("sample", "-m", "sd", "--negative", "a", "sampler.scale=1"), r"give sampler\.scale=3"),
        (("sample", "-m", "dit", "--label", "nothing"), "is not a class of this model"),
        (("train", "sd", "emoji"), "'sd' is not the name of a model to train"),
        (("train", "diffusers", "emoji"), "not the name of a model to train"),
        (("edit", "x.png", "-m", "ddpm"), "diffusers has no DDPMPipeline that edits pictures"),
        (("edit", "x.png", "-m", "sd", "sampler.width=8"), "an edited picture keeps its size"),
    ],
)
def test_unsupported_commands_fail_in_one_line(limner_, words, said):
    Image.new("RGB", (16, 16)).save("x.png")
    code, out, error = limner_(*words)
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    with pytest.raises(LimnerError, match=said):
        raise LimnerError(error)


def test_without_diffusers_the_error_states_what_to_install(home, monkeypatch):
    monkeypatch.setattr(folder, "find_spec", lambda name: None)
    with pytest.raises(LimnerError, match=r"type: pip install .*\[diffusers\]'$"):
        load(home / "sd")
