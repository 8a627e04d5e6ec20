"""R3GAN: convergence of its objective, its losses in closed form, its new networks."""

import math

import pytest
import torch
from torch import Tensor

from limner import Condition, ImageSpec, Noise, build
from limner.contract.errors import LimnerError
from limner.gans.losses import (
    OBJECTIVES,
    r1,
    relativistic_critic,
    relativistic_generator,
    scores_and_slopes,
)
from limner.gans.r3gan import R3GAN, Block, residual_stages
from limner.testing.cases import toy_data

SPEC = ImageSpec(1, 8, 8, labels=("a", "b"))


def radius(objective: str, gamma: float, penalties: int, start: float = 0.05) -> float:
    """Return the distance of the Dirac-GAN from its equilibrium after 400 simultaneous steps.

    Data are 0, the generator paints theta, the critic is s(x) = psi x; the equilibrium is (0, 0).
    Mescheder, Geiger, Nowozin (2018), arXiv:1801.04406, definition 2.1.
    """
    game = OBJECTIVES[objective]  # pyright: ignore[reportArgumentType]
    ends = torch.full((2,), start, dtype=torch.float64)
    theta, psi = (end.clone().requires_grad_() for end in ends)
    for _ in range(400):
        real, fake = torch.zeros(1, 1, 1, 1).double(), theta.view(1, 1, 1, 1)

        def critic(x: Tensor) -> Tensor:
            return psi * x.flatten()  # noqa: B023

        loss = game.critic(critic(real), critic(fake.detach()))
        for x in (real, fake.detach())[:penalties]:
            loss = loss + gamma / 2 * r1(critic, x)
        (critic_slope,) = torch.autograd.grad(loss, psi)
        args = (critic(real).detach(),) if game.paired else ()
        (generator_slope,) = torch.autograd.grad(game.generator(critic(fake), *args), theta)
        with torch.no_grad():
            psi -= 0.1 * critic_slope
            theta -= 0.1 * generator_slope
    return math.hypot(float(theta.detach()), float(psi.detach()))


def test_the_dirac_gan_converges_only_with_penalties():
    """At the equilibrium the eigenvalues of both objectives are imaginary. Penalties of gamma shift
    those of the critic by -2 gamma / 2, so that the real parts are below 0."""
    near = math.hypot(0.05, 0.05)
    assert radius("minimax", 0.0, 0) > near
    assert radius("relativistic", 0.0, 0) > near, "the loss must not converge without penalties"
    assert radius("relativistic", 0.5, 2) < 1e-6 * near
    assert radius("relativistic", 0.5, 2, start=1.0) < 1e-6


def test_losses_are_computed_from_pairs():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    log = math.log1p
    critic = (log(math.exp(-5.0)) + log(math.exp(0.5))) / 2
    generator = (log(math.exp(5.0)) + log(math.exp(-0.5))) / 2
    assert relativistic_critic(real, fake).item() == pytest.approx(critic)
    assert relativistic_generator(fake, real).item() == pytest.approx(generator)
    assert relativistic_critic(real + 7, fake + 7).item() == pytest.approx(critic, rel=1e-5)


def test_scores_and_slopes_of_one_pass_equal_those_of_two():
    model = R3GAN(SPEC, latent=4, channels=8, group=4).double()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    batch = toy_data(SPEC, 0, 4)
    x = batch.x.double()

    def critic(x: Tensor) -> Tensor:
        return model.critic(x, batch.c)

    scores, slopes = scores_and_slopes(critic, x)
    assert torch.equal(scores, critic(x).float())
    assert float(slopes.mean().detach()) == pytest.approx(float(r1(critic, x).detach()), rel=1e-5)
    weight = model.critic.conv_in.weight
    one, other = (torch.autograd.grad(y, weight)[0] for y in (slopes.mean(), r1(critic, x)))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_round_is_the_objective_with_both_penalties():
    model = R3GAN(SPEC, gamma=0.7, latent=4, channels=8, group=4)
    batch, n = toy_data(SPEC, 0, 6), 6
    turns = model.turns(batch, 0, Noise.keyed(0, 0, range(n)))
    first = next(turns)
    noise = Noise.keyed(0, 0, range(n))
    fake = model.generator(noise.normal(4), batch.c).detach()

    def critic(x: Tensor) -> Tensor:
        return model.critic(x, batch.c)

    real_scores = critic(batch.x)
    loss = relativistic_critic(real_scores, critic(fake))
    loss = loss + 0.35 * (r1(critic, batch.x) + r1(critic, fake))
    torch.testing.assert_close(first.loss, loss, rtol=1e-4, atol=1e-5)
    second = next(turns)
    new_fake = model.generator(noise.normal(4), batch.c)
    torch.testing.assert_close(second.loss, relativistic_generator(critic(new_fake), real_scores))
    assert [first.of, second.of] == ["critic", "generator"]


def test_new_blocks_are_the_identity_and_features_keep_their_scale():
    torch.manual_seed(0)
    x = torch.randn(2, 32, 8, 8)
    block = Block(32, 16, scale=1.0)
    assert torch.equal(block(x), x)
    assert block.conv_2.groups == 4, "64 channels in groups of 16"
    h = torch.nn.functional.leaky_relu(block.conv_1(x), 0.2)
    assert float(h.square().mean().detach()) == pytest.approx(1.0, rel=0.3)
    model = build("r3gan", ImageSpec(3, 32, 32), channels=16)
    images = model.generator(torch.randn(64, 64), Condition())
    assert 0.3 < float(images.std().detach()) < 2


@pytest.mark.parametrize("name", ["gan", "stylegan2"])
def test_the_objective_works_with_other_networks(name: str):
    tiny: dict[str, dict] = {
        "gan": {"latent": 4, "channels": 4, "norm": "none", "gamma": 0.7},
        "stylegan2": {"latent": 4, "style": 4, "depth": 1, "channels": 4, "gamma": 0.7,
                      "r1_every": 1, "path_every": 0},
    }  # fmt: skip
    model = build(name, SPEC, objective="relativistic", **tiny[name])
    turns = list(model.turns(toy_data(SPEC, 0, 6), 0, Noise.keyed(0, 0, range(6))))
    assert math.isfinite(sum(float(turn.loss.detach()) for turn in turns))
    assert any("softplus(s(G(z)) - s(x))" in line for line in model.formula())
    last = float(turns[-1].loss.detach())
    assert turns[-1].of == "generator" and last == pytest.approx(math.log(2), abs=0.2)


def test_unsuitable_options_are_refused():
    with pytest.raises(LimnerError, match=r"type model\.norm=layer or none"):
        build("gan", SPEC, gamma=1.0)
    with pytest.raises(LimnerError, match=r"type model\.augment=0"):
        build("stylegan2", SPEC, objective="relativistic", augment=0.6)


def test_more_blocks_start_with_smaller_weights():
    """Fixup: with L blocks of m layers each, weights are scaled by L^(-1 / (2 m - 2)), m = 3."""
    blocks = [block for stage in residual_stages([64, 64], 16, 8) for block in stage.children()]
    assert len(blocks) == 16
    for layer, inputs in (("conv_1", 64), ("conv_2", 16 * 9)):
        weights = torch.cat([getattr(block, layer).weight.detach().flatten() for block in blocks])
        expected = math.sqrt(2 / (1 + 0.2**2)) / math.sqrt(inputs) * 16**-0.25
        assert weights.std().item() == pytest.approx(expected, rel=0.02)
