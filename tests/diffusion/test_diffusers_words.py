"""Rewording (prompt-to-prompt) in pipelines of diffusers, with their attention processors."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pipelines
import pytest
import torch
from PIL import Image
from pipelines import SCHEDULERS, opened
from torch import Tensor
from typer.testing import CliRunner

from limner import text_condition
from limner.commands.app import app
from limner.commands.request import SamplingRequest
from limner.commands.sheets.reword import rewording
from limner.contract.errors import LimnerError
from limner.contract.noise import Noise
from limner.diffusion.diffusers import shared_attention
from limner.diffusion.diffusers.painter import OwnStreams

pytestmark = pytest.mark.filterwarnings(  # from diffusers' own tables
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("pipelines")
    pipelines.unconditional(home / "ddpm")
    pipelines.stable_diffusion(home / "sd", SCHEDULERS["ddim"]())
    return home


@pytest.fixture(scope="module")
def sd(home: Path) -> Any:
    return opened(home / "sd")


def reword_pair(model: Any, before: str, after: str, seed: int = 3, **options: Any) -> Tensor:
    """Return both pictures of a rewording from `before` to `after`, for example weights red=2."""
    gains = [f"weight:{word}={gain}" for word, gain in options.pop("weights", {}).items()]
    shares = {
        name: options.pop(name)
        for name in ("cross_steps", "self_steps", "local")
        if name in options
    }
    changes = [f"replace:{before}={after}", *gains]
    first, second, change = rewording(model.spec, before, changes)
    (*_, pair) = model.reword(
        first, second, replace(change, **shares), seed=[seed, seed + 1], steps=5, **options
    )
    return pair


@pytest.mark.parametrize("scale", [0.0, 3.0])
@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "noisy"])
def test_without_sharing_both_pictures_are_samples_of_their_prompts(
    sd, scheduler, scale, monkeypatch
):
    model = sd
    monkeypatch.setattr(model.pipeline, "scheduler", SCHEDULERS[scheduler]())
    prompts = "a red dog", "two blue cats"
    kinds = {type(processor) for processor in model.pipeline.unet.attn_processors.values()}
    pair = reword_pair(model, *prompts, scale=scale, cross_steps=0, self_steps=0, local=0)
    samples = [model.sample(2, text_condition(model.spec, p), seed=3, steps=5, scale=scale)
               for p in prompts]  # fmt: skip
    torch.testing.assert_close(pair, torch.cat(samples), rtol=0, atol=1e-4)
    same = reword_pair(model, prompts[0], prompts[0], scale=scale)
    torch.testing.assert_close(same, samples[0].repeat(2, 1, 1, 1), rtol=0, atol=1e-4)
    shared = reword_pair(model, *prompts, scale=scale, cross_steps=1, self_steps=1, local=0)
    torch.testing.assert_close(shared[:2], samples[0], rtol=0, atol=1e-4)
    assert not torch.allclose(shared[2:], pair[2:], rtol=0, atol=1e-4)
    assert kinds == {type(processor) for processor in model.pipeline.unet.attn_processors.values()}
    assert "step" not in vars(model.pipeline.scheduler)


def test_shared_attention_of_a_pipeline_equals_a_direct_computation(sd, monkeypatch):
    """Tokens are letters: the letters of "dog" are replaced with those of "fun cat"."""
    records: list[tuple[str, Tensor, Tensor]] = []

    class Recorder(shared_attention.SharedAttention):
        def cross_attention(self, site: str, weights: Tensor) -> Tensor:
            shared = super().cross_attention(site, weights)
            records.append(("cross", weights, shared))
            return shared

        def self_attention(self, site: str, weights: Tensor) -> Tensor:
            shared = super().self_attention(site, weights)
            records.append(("own", weights, shared))
            return shared

    monkeypatch.setattr(shared_attention, "SharedAttention", Recorder)
    reword_pair(
        sd,
        "a dog",
        "a fun cat",
        cross_steps=1,
        self_steps=1,
        local=0,
        weights={"cat": 2},
        scale=3.0,
    )
    assert {kind for kind, _, _ in records} == {"cross", "own"}
    words = next(original for kind, original, _ in records if kind == "cross")
    assert not torch.allclose(words[:2], words[2:], atol=1e-3), "it is that of the two prompts"
    for kind, original, shared in records:
        assert len(original) == 4, "attention of the null prompt must not be shared"
        first = original[:2]
        assert torch.equal(shared[:2], first)
        if kind == "own":
            assert torch.equal(shared[2:], first)
            continue
        start, a, d, o, g, end = first[..., :6].unbind(-1)
        mean = (d + o + g) / 3  # six letters share this mean
        letters = [mean] * 3 + [2 * mean] * 3
        expected = torch.stack([start, a, *letters, end], -1)
        torch.testing.assert_close(shared[2:, ..., :9], expected)
        torch.testing.assert_close(shared[2:, ..., 9:], first[..., 9:])


def test_progress_is_the_share_of_the_steps_from_the_first_one_taken():
    """A given picture starts in the middle of the scheduler's times."""

    class Progress(shared_attention.SharedAttention):
        def __init__(self) -> None:
            self.shares: list[float] = []

        def start_evaluation(self, progress: float) -> None:
            self.shares.append(progress)

    class Scheduler:
        timesteps = torch.tensor([9, 7, 5, 3, 1])

        def step(self, model_output: Tensor, timestep: Any, sample: Tensor) -> Any:
            return SimpleNamespace(prev_sample=sample)

    unet = SimpleNamespace(attn_processors={}, set_attn_processor=lambda _: None)
    pipeline, shared = SimpleNamespace(unet=unet, scheduler=Scheduler()), Progress()
    x = torch.zeros(1)
    with shared_attention.sharing(pipeline, shared, lambda F, t, x_t, output: x_t):
        for t in Scheduler.timesteps[2:]:
            pipeline.scheduler.step(x, t, x)
    assert shared.shares == pytest.approx([1 / 3, 2 / 3, 1])


def test_local_blending_reduces_changes_elsewhere(home):
    sd = opened(home / "sd")
    options: dict[str, Any] = {"scale": 3.0, "cross_steps": 0, "self_steps": 0}
    for name, weight in sd.pipeline.unet.named_parameters():
        if "attn2.to_q" in name:  # so that attention differs between places
            torch.nn.init.normal_(weight, std=5.0)
    free = reword_pair(sd, "a dog", "a cat", local=0, **options)
    pair = reword_pair(sd, "a dog", "a cat", local=0.95, **options)
    assert not torch.equal(pair[:2], pair[2:])
    local_change, full_change = (float((p[2:] - p[:2]).abs().mean()) for p in (pair, free))
    assert local_change < 0.8 * full_change
    frames = list(sd.reword(*rewording(sd.spec, "a dog", ["replace:dog=cat"]), seed=1, steps=4))
    assert len(frames) == sd.frame_count(steps=4) and len(frames[0]) == 2


@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "euler", "noisy"])
def test_a_given_picture_is_unchanged_if_no_word_changes(sd, scheduler, monkeypatch):
    monkeypatch.setattr(sd.pipeline, "scheduler", SCHEDULERS[scheduler]())
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    same = reword_pair(sd, "a dog", "a dog", image=x, scale=3.0)
    reconstruction = sd.reconstruct_for_edit(x, 3)
    assert (reconstruction - x).abs().mean() > 0.01, "the autoencoder must lose detail"
    torch.testing.assert_close(same, reconstruction.repeat(2, 1, 1, 1), rtol=0, atol=1e-4)
    pair = reword_pair(sd, "a dog", "two blue cats", image=x, scale=3.0, local=0)
    torch.testing.assert_close(pair[:2], reconstruction, rtol=0, atol=1e-4)
    assert (pair[2:] - reconstruction).abs().mean() > 1e-3
    assert not {"step", "add_noise"} & {*vars(sd.pipeline.scheduler)}, "the scheduler was changed"


def test_rewording_a_given_picture_equals_a_direct_computation(sd):
    """Without sharing: in the autoencoder's latents z, step by step, with the bare network."""
    x, seed, steps = torch.rand(1, 3, 16, 16) * 2 - 1, 7, 6
    first, second, change = rewording(sd.spec, "a dog", ["replace:dog=blue cat"])
    change = replace(change, cross_steps=0, self_steps=0, local=0)
    options: dict[str, Any] = {"seed": seed, "steps": steps, "scale": 3.0}
    frames = list(sd.reword(first, second, change, image=x, strength=0.5, **options))
    assert len(frames) == steps // 2 + 1
    pipeline = sd.pipeline
    noise, vae = Noise.sampling(seed, 1), pipeline.vae
    with OwnStreams(noise), torch.no_grad():
        source = vae.encode(x).latent_dist.sample() * vae.config.scaling_factor
    embeddings = [
        pipeline.encode_prompt(p, "cpu", 1, False)[0] for p in ("a dog", "a blue cat", "")
    ]
    pipeline.scheduler.set_timesteps(steps)
    times = pipeline.scheduler.timesteps.tolist()[steps // 2 :]
    bars = [float(pipeline.scheduler.alphas_cumprod[t]) for t in times] + [1.0]
    z = source
    for t, bar, next_bar in zip(times, bars, bars[1:]):
        a, s, a2, s2 = bar**0.5, (1 - bar) ** 0.5, next_bar**0.5, (1 - next_bar) ** 0.5
        source_t = a * source + s * noise.normal(4, 8, 8)
        hats = []
        for x_t, c in zip((source_t, source_t + a * (z - source)), embeddings):
            with torch.no_grad():
                F, null = (
                    pipeline.unet(x_t, t, embedding).sample for embedding in (c, embeddings[2])
                )
            hats.append((x_t - s * (null + 3.0 * (F - null))) / a)
        k = s2 * a / (a2 * s)
        z = source + k * (z - source) + (1 - k) * (hats[1] - hats[0])
    with torch.no_grad():
        expected = vae.decode(z / vae.config.scaling_factor).sample.clamp(-1, 1)
    torch.testing.assert_close(frames[-1][1:], expected, rtol=0, atol=1e-3)
    assert (frames[-1][1:] - frames[-1][:1]).abs().max() > 0.01


def test_pipelines_that_cannot_reword_are_refused(home, sd):
    arguments = rewording(sd.spec, "a dog", ["replace:dog=cat"])
    unet = opened(home / "sd")
    kinds = {k: diffusers.models.attention_processor.SlicedAttnProcessor(1)
             for k in unet.pipeline.unet.attn_processors}  # fmt: skip
    unet.pipeline.unet.set_attn_processor(kinds)
    with pytest.raises(LimnerError, match="attention processor SlicedAttnProcessor"):
        next(unet.reword(*arguments, steps=2))
    with pytest.raises(LimnerError, match="DDPMPipeline has another network"):
        shared_attention.check_attention(opened(home / "ddpm").pipeline)


def test_the_edit_command_rewords_a_pipelines_picture(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app, [*map(str, arguments)])

    options = ("-m", home / "sd")
    assert run("sample", "a red dog", *options, "-o", "a.png", "sampler.steps=2").exit_code == 0
    edit = ("edit", "a.png", "--replace", "dog=cat", "--weight", "red=2", "-o", "b.png")
    assert run(*edit).exit_code == 0
    assert SamplingRequest.read("b.png").changes == ("replace:dog=cat", "weight:red=2")
    with Image.open("a.png") as image:
        image.convert("RGB").save("photo.jpg")
    command = ("edit", "photo.jpg", *options, "--prompt", "a dog", "--replace", "dog=cat")
    edited = run(*command, "-o", "c.png", "sampler.steps=2")
    assert edited.exit_code == 0, edited.exception
    assert "the picture is reconstructed with an error of" in edited.output
    with Image.open("c.png") as image:
        assert image.size[0] > 1.9 * image.size[1], (
            "the sheet must show the pictures before and after"
        )


def test_a_weight_belongs_to_all_tokens_of_its_word(sd):
    *_, change = rewording(sd.spec, "a red dog", ["weight:red=2", "weight:dog=0.5"])
    result = shared_attention.of_tokens(sd.pipeline.tokenizer, ["a red dog"] * 2, change)
    assert result.gains.tolist() == [1, 2, 2, 2, 0.5, 0.5, 0.5, 1, 1, 1, 1]
    assert result.alignment.new == result.alignment.removed == ()
    assert torch.equal(result.alignment.source, torch.eye(11))
