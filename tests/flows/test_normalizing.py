"""RealNVP and Glow: exact inverses at full depth, densities, and draws that stay finite."""

from itertools import pairwise

import pytest
import torch

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec, from_levels
from limner.contract.noise import Noise
from limner.flows.glow import Glow
from limner.flows.normalizing import NormalizingFlow
from limner.flows.realnvp import RealNVP
from limner.maths.transforms import NO_SIGNAL, MaskedCoupling, log_normal

FLOWS = {
    "glow": lambda spec, **more: Glow(spec, hidden=8, **more),
    "glow of splines": lambda spec, **more: Glow(spec, hidden=8, coupling="spline", **more),
    "realnvp": lambda spec, **more: RealNVP(spec, features=8, **more),
}
each = pytest.mark.parametrize("make", FLOWS.values(), ids=FLOWS)


def perturbed(model: NormalizingFlow) -> NormalizingFlow:
    """Perturb the weights, since a new network ends in zeros; return the model."""
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return model.eval().requires_grad_(False)


@each
def test_any_picture_is_reconstructed_at_full_depth(make):
    """Noise, black, white and a ramp in float32 are exact to 1e-4, and levels are equal."""
    model = perturbed(make(ImageSpec(1, 12, 12)))
    y = torch.rand(4, 1, 12, 12)
    y[1], y[2], y[3] = 0.002, 0.998, torch.linspace(0.01, 0.99, 12)
    z = model.flow(model.preprocess(y)[0])[0]
    reconstruction = model.preprocess.inverse(model.flow.inverse(z))
    torch.testing.assert_close(reconstruction, y, rtol=0, atol=1e-4)
    x = from_levels((y * 256).long().clamp(0, 255), 256)
    assert torch.equal(model.reconstruct(x), x)


@each
def test_an_odd_number_of_channels_is_divided_unequally(make):
    model = perturbed(make(ImageSpec(3, 5, 7), L=1)).double()
    y = 0.05 + 0.9 * torch.rand(2, 3, 5, 7, dtype=torch.float64)
    z = model.flow(model.preprocess(y)[0])[0]
    reconstruction = model.preprocess.inverse(model.flow.inverse(z))
    torch.testing.assert_close(reconstruction, y, rtol=0, atol=1e-9)


@each
def test_the_density_is_normal_times_autograds_jacobian(make):
    """The inverse and the density are exact to 1e-10 in float64."""
    model = perturbed(make(ImageSpec(1, 4, 4))).double()
    y = 0.05 + 0.9 * torch.rand(1, 1, 4, 4, dtype=torch.float64)

    def flat(v: torch.Tensor) -> torch.Tensor:
        return model.flow(model.preprocess(v.view(1, 1, 4, 4))[0])[0].flatten()

    J = torch.autograd.functional.jacobian(flat, y.flatten())
    expected = log_normal(flat(y).view(1, 1, 4, 4)) + torch.linalg.slogdet(J).logabsdet
    torch.testing.assert_close(model.log_density(y, NO_SIGNAL), expected, rtol=0, atol=1e-10)
    reconstruction = model.preprocess.inverse(model.flow.inverse(flat(y).view(1, 1, 4, 4)))
    torch.testing.assert_close(reconstruction, y, rtol=0, atol=1e-10)


@each
def test_draws_are_finite_at_temperature_1_and_above(make):
    model = perturbed(make(ImageSpec(1, 8, 8)))
    z = Noise.sampling(0, 8).normal(1, 8, 8)
    for temperature in (0.0, 1.0, 3.0):
        assert model.flow.inverse(temperature * z).isfinite().all()


def test_the_temperature_is_the_deviation_of_the_numbers():
    model = perturbed(FLOWS["glow"](ImageSpec(1, 8, 8)))
    z = Noise.sampling(3, 4).normal(1, 8, 8).flatten(1)
    assert torch.equal(model.sample(4, seed=3, temperature=0.5), model.decode(0.5 * z))


def test_the_first_frame_uses_only_the_coarsest_numbers():
    model = perturbed(Glow(ImageSpec(1, 8, 8), K=2, hidden=8))
    frames = list(model.watch(2, seed=3))
    z = Noise.sampling(3, 2).normal(1, 8, 8).masked_fill(model.code_scales < 2, 0)
    assert len(frames) == 2
    assert torch.equal(frames[0], model.decode(z.flatten(1)))
    assert not torch.equal(frames[0], frames[1])


def test_couplings_alternate_between_both_parts_of_a_checkerboard():
    model = RealNVP(ImageSpec(1, 4, 6), features=8, dequantisation="variational")
    for chain, count in ((model.flow, 3 + 4), (model.dequantise.flow, 4)):
        masks = [each.mask for each in chain.modules() if isinstance(each, MaskedCoupling)]
        assert len(masks) == count
        same_size = [(a, b) for a, b in pairwise(masks) if a.shape == b.shape]
        assert all(torch.equal(a, ~b) for a, b in same_size) and len(same_size) >= count - 2


def test_pictures_that_cannot_be_halved_are_refused():
    with pytest.raises(LimnerError, match=r"2 scales at most; type model\.L=2"):
        Glow(ImageSpec(1, 28, 28), L=3)
    with pytest.raises(LimnerError, match="even height or width"):
        Glow(ImageSpec(1, 7, 7), L=1)
    with pytest.raises(LimnerError, match=r"5 x 7 have 1 scales at most; type model\.L=1"):
        # The first scale of a grey picture would leave one channel.
        Glow(ImageSpec(3, 5, 7), L=2)
