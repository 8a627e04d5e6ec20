"""Latent diffusion: the adversarial training of the autoencoder, and a denoiser of latents."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from toy import SPEC, batches, colours_are_right, one_thread, trained

from limner.autoencoders.kl_autoencoder import KLAutoencoder
from limner.contract.abilities import FirstStage
from limner.contract.bundled import load
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.diffusion.ddpm import DDPM
from limner.diffusion.flow_matching import FlowMatching
from limner.diffusion.latent_diffusion import LatentDiffusion
from limner.maths.denoisers import Clipped

PLAIN = replace(SPEC, labels=(), frequencies=())


class Identity(FirstStage):
    """A first stage whose latents are the pictures."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.latent_shape = spec.shape
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def latents(self, x: Images, noise: Noise) -> Images:
        return x

    def pictures(self, z: Images) -> Images:
        return z

    def turns(self, batch, step, noise) -> Iterator[Turn]:
        yield Turn(self.unused.sum())

    def frames(self, n, c=Condition(), *, noise, preview=True):
        yield torch.zeros(n, *self.spec.shape)


@pytest.mark.parametrize("name", ["ddpm", "flow-matching"])
def test_with_an_identity_first_stage_it_equals_pixel_diffusion(name):
    """Losses are equal, and so are samples, edits and codes of the same seed."""
    torch.manual_seed(0)
    options = {"channels": (8,), "patch": 2}
    model = LatentDiffusion(SPEC, Identity(SPEC), name, options)
    plain = build(name, SPEC, **options)
    with torch.no_grad():
        for p in model.denoiser.parameters():
            p += 0.02 * torch.randn_like(p)
    plain.load_state_dict(model.denoiser.state_dict())
    batch = batches(0, 8)
    losses = [next(m.turns(batch, 0, Noise.keyed(0, 0, range(8)))).loss for m in (model, plain)]
    assert torch.equal(*losses)
    c = Condition(label=torch.tensor([0, 1, 0]))
    sampling = {"steps": 7, "scale": 2.0, "seed": 3}
    ours, theirs = model.sample(3, c, **sampling), plain.sample(3, c, **sampling, clip=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    mask = torch.zeros(3, 1, *SPEC.shape[1:])
    mask[..., 3:] = 1
    for options in ({"mask": mask, "rounds": 2}, {"strength": 0.5}):
        frames, expected = (
            list(m.edit(batch.x[:3], c, **sampling, **options, **extra))
            for m, extra in ((model, {}), (plain, {"clip": False}))
        )
        assert len(frames) == len(expected) == model.edit_count(options.get("strength", 1), steps=7)
        torch.testing.assert_close(frames[-1], expected[-1], rtol=0, atol=1e-6)
    z = torch.randn(2, SPEC.dimensions)
    torch.testing.assert_close(model.decode(z), plain.decode(z), rtol=0, atol=1e-5)
    x = batch.x[:2]
    torch.testing.assert_close(model.encode(x), plain.encode(x), rtol=0, atol=1e-5)


def test_normalisation_of_latent_maps_is_undone_for_pictures():
    model = LatentDiffusion(SPEC, Identity(SPEC), "flow-matching", {"channels": (8,), "patch": 2})
    model.latent_mean.copy_(torch.tensor([0.3, -0.2, 0.1]).view(3, 1, 1))
    model.latent_deviation.copy_(torch.tensor([2.0, 0.5, 1.5]).view(3, 1, 1))
    x = torch.rand(2, *SPEC.shape) * 2 - 1
    assert not isinstance(model.plan().D, Clipped)  # maps have no fixed range
    z, _ = model.to_latent(x, None, Noise.sampling(0, 2))
    torch.testing.assert_close(z, (x - model.latent_mean) / model.latent_deviation)
    torch.testing.assert_close(model.to_image(z), x)


def test_each_latent_channel_has_mean_0_and_deviation_1():
    first = KLAutoencoder(PLAIN, channels=(8,))
    model = LatentDiffusion(SPEC, first, options={"channels": (8,)})
    model.prepare(batches(8 * i, 8) for i in range(20))
    z = first.latents(batches(0, 128).x, Noise.keyed(0, 0, range(128)))
    deviation, mean = torch.std_mean(model._normalise(z).detach(), dim=(0, 2, 3))
    torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=0.06, atol=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=0.06)
    for name in ("latent_mean", "latent_deviation"):
        assert name in model.state_dict(), "the latent statistics must be saved"
    assert {id(p) for p in model.players()["model"].parameters()} == {
        id(p) for p in model.denoiser.parameters()
    }


def test_the_loss_is_absolute_error_plus_gaussian_kl():
    model = KLAutoencoder(PLAIN, channels=(8,), critic_weight=0.0)
    batch = batches(0, 4)
    (turn,) = model.turns(batch, 0, Noise.keyed(0, 0, range(4)))
    mean, log_variance = model.coders.encode(batch.x)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    p = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    kl = torch.distributions.kl_divergence(q, p).mean()
    torch.testing.assert_close(turn.logs["kl"], kl.detach())
    z = model.latents(batch.x, Noise.keyed(0, 0, range(4)))
    error = (model.pictures(z) - batch.x).abs().mean()
    torch.testing.assert_close(turn.loss, error + 1e-6 * kl)


def test_the_critic_starts_late_with_the_gradient_norm_of_the_error():
    model = KLAutoencoder(
        PLAIN, channels=(8,), critic_start=5, critic_lead=2, critic_weight=0.4, kl_weight=0.0
    )
    batch, noise = batches(0, 4), Noise.keyed(0, 0, range(4))
    assert [turn.of for turn in model.turns(batch, 4, noise)] == ["coders"]
    turns = list(model.turns(batch, 6, noise))
    assert [turn.of for turn in turns] == ["coders", "critic"]
    assert float(turns[0].loss.detach()) == float(turns[0].logs["absolute_error"])
    game = model.turns(batch, 7, Noise.keyed(0, 0, range(4)))
    turn = next(game)
    last = model.coders.conv_out.weight
    (gradient,) = torch.autograd.grad(turn.loss, last, retain_graph=True)
    x_hat = model.pictures(model.latents(batch.x, Noise.keyed(0, 0, range(4))))
    (error_gradient,) = torch.autograd.grad((x_hat - batch.x).abs().mean(), last)
    torch.testing.assert_close(
        (gradient - error_gradient).norm(), 0.4 * error_gradient.norm(), rtol=1e-2, atol=0
    )
    other = next(game)
    assert other.of == "critic" and float(other.loss.detach()) == pytest.approx(1.0, abs=0.3)
    other.loss.backward()
    assert all(p.grad is None for p in model.coders.parameters())


def test_both_stages_learn_the_colours_of_classes():
    with one_thread():
        torch.manual_seed(0)
        first = trained(KLAutoencoder(PLAIN, channels=(16,), critic_start=150, critic_width=8))
        x = batches(0, 64).x
        assert float((first.reconstruct(x) - x).abs().mean()) < 0.15
        model = LatentDiffusion(SPEC, first, options={"channels": (24,)})
        assert first.latent_shape == (4, 4, 4)
        model = trained(model, steps=180)
        assert colours_are_right(model, sampler="euler", steps=20, scale=1.5)
        frames = list(model.watch(2, Condition(label=torch.tensor([0, 1])), steps=4))
        assert len(frames) == model.frame_count(steps=4)
        assert float((model.reconstruct(x[:4]) - x[:4]).abs().mean()) < 0.2
        mask = torch.zeros(len(x), 1, *SPEC.shape[1:])
        mask[:, :, :, 3:] = 1
        (*_, edited) = model.edit(x, batches(1, 64).c, mask=mask, steps=8)
        assert torch.equal(edited[..., :3], x[..., :3]), "kept pixels changed"
        assert float((edited - x)[..., 3:].abs().mean()) > 0.1


def test_unsuitable_parts_and_data_are_refused():
    with pytest.raises(LimnerError, match="train a kl-autoencoder"):
        LatentDiffusion(SPEC, DDPM(SPEC, channels=(4,)))
    small = KLAutoencoder(ImageSpec(3, 4, 4), channels=(8,), critic_layers=2)
    with pytest.raises(LimnerError, match=r"give data\.size=4"):
        LatentDiffusion(SPEC, small)
    grey = KLAutoencoder(replace(PLAIN, channels=1), channels=(8,), critic_layers=2)
    with pytest.raises(LimnerError, match=r"trained on 1 x .* data\.channels=1"):
        LatentDiffusion(SPEC, grey)
    for name in ("vae", "reflow", "sr3"):
        with pytest.raises(LimnerError, match=f"denoiser={name} is not a denoising model that"):
            LatentDiffusion(SPEC, KLAutoencoder(PLAIN, channels=(8,)), name)
    for name, options in {"vdm": {}, "ddpm": {"variance": "learned"}}.items():
        with pytest.raises(LimnerError, match=f"the loss of {name} .* discrete levels"):
            LatentDiffusion(SPEC, Identity(SPEC), name, {"channels": (8,), **options})
    with pytest.raises(LimnerError, match=r"data\.size=20"):
        KLAutoencoder(ImageSpec(3, 18, 18), channels=(8, 8))
    with pytest.raises(LimnerError, match=r"3 times for the critic; give fewer model\.critic_lay"):
        KLAutoencoder(ImageSpec(3, 6, 6), channels=(8,))
    assert KLAutoencoder(ImageSpec(3, 6, 6), channels=(8,), critic_weight=0.0).players()
    assert FlowMatching(SPEC, channels=(8,)).name == "flow-matching"


def test_shares_stage_ignores_batch_size_but_not_other_data():
    first = Identity(SPEC)
    small, large, dark = (
        LatentDiffusion(SPEC, first, options={"channels": (8,)}) for _ in range(3)
    )
    small.prepare(batches(8 * i, 8) for i in range(16))
    large.prepare(batches(32 * i, 32) for i in range(16))
    dark.prepare(Batch(batches(8 * i, 8).x / 4 - 0.7, Condition()) for i in range(16))
    assert not torch.equal(small.latent_mean, large.latent_mean)
    assert small.shares_stage(large) and large.shares_stage(small)
    assert not small.shares_stage(dark) and not dark.shares_stage(small)


def test_bundled_scene_models_share_one_latent_space():
    stages = [
        [part for part in load(name).modules() if isinstance(part, LatentDiffusion)]
        for name in ("scenes", "scenes-fast", "scenes-sketch", "scenes-layout", "instruct")
    ]
    (base,), *others = stages
    assert all(part.shares_stage(base) for [part] in others)
