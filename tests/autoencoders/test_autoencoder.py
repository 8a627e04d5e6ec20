"""The autoencoder compared with principal components, and paths between codes."""

import math
from typing import Any

import pytest
import torch

from limner.autoencoders.autoencoder import Autoencoder
from limner.autoencoders.encoders import halvings
from limner.contract import codes
from limner.contract.code_paths import lerp, slerp
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.likelihood import LikelihoodModel
from limner.contract.noise import Noise

SPEC = ImageSpec(1, 3, 4)


def pictures(n: int, spec: ImageSpec = SPEC, rank: int = 3) -> torch.Tensor:
    """Return pictures that vary strongly along `rank` directions and little along the others."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(rank, spec.dimensions, generator=generator)
    scale = 0.1 / torch.arange(1.0, rank + 1)[:, None]
    factors = torch.randn(n, rank, generator=generator)
    x = factors @ (mixing * scale) + 0.01 * torch.randn(n, spec.dimensions, generator=generator)
    return (x + 0.1).clamp(-1, 1).view(n, *spec.shape)


def principal_components(x: torch.Tensor, k: int) -> tuple[torch.Tensor, float]:
    """Return the k directions of largest variance and the mean square outside them."""
    flat = x.flatten(1).double()
    variances, directions = torch.linalg.eigh(torch.cov(flat.T, correction=0))
    return directions[:, -k:], float(variances[:-k].sum() / flat.shape[1])


def linear(x: torch.Tensor, latent: int) -> Any:
    """Return a linear autoencoder with optimal weights: the principal components."""
    model: Any = Autoencoder(SPEC, latent=latent, hidden=()).double()
    directions, _ = principal_components(x, latent)
    mean = x.flatten(1).double().mean(0)
    encoder, decoder = model.encoder.perceptron.layers[0], model.decoder.perceptron.layers[0]
    with torch.no_grad():
        encoder.weight.copy_(directions.T)
        encoder.bias.copy_(-mean @ directions)
        decoder.weight.copy_(directions)
        decoder.bias.copy_(mean)
    return model


def test_principal_components_are_the_optimum_of_a_linear_autoencoder():
    """Baldi, Hornik (1989): the least squared error is the variance outside them."""
    x = pictures(200).double()
    _, least = principal_components(x, 2)
    model = linear(x, 2)

    def loss() -> torch.Tensor:
        return next(model.turns(Batch(x, Condition()), 0, Noise.keyed(0, 0, range(200)))).loss

    optimum = loss()
    assert float(optimum.detach()) == pytest.approx(least, rel=1e-9)
    for slope in torch.autograd.grad(optimum, list(model.parameters())):
        assert float(slope.abs().max()) < 1e-9
    for _ in range(10):
        with torch.no_grad():
            for p in model.parameters():
                p += 0.02 * torch.randn_like(p)
        assert float(loss().detach()) > least


def test_the_gaussian_is_fitted_to_the_codes():
    """Whitened codes have mean 0 and covariance 1. Samples have the data's covariance, as far as
    the code keeps it. The axes are sorted by length."""
    x = pictures(500).double()
    model = linear(x, 3)
    model.calibrate(iter([Batch(x[:200], Condition()), Batch(x[200:], Condition())]))
    u = model.encode(x)
    torch.testing.assert_close(u.mean(0), torch.zeros(3, dtype=u.dtype), atol=1e-9, rtol=0)
    torch.testing.assert_close(u.T.cov(), torch.eye(3, dtype=u.dtype), atol=1e-9, rtol=0)
    lengths = model.code_axes.square().sum(0)
    assert bool((lengths.diff() < 0).all())
    directions, _ = principal_components(x, 3)
    samples = next(model.watch(20_000)).flatten(1).double()
    projection = directions @ directions.T
    expected = projection @ x.flatten(1).T.cov() @ projection
    torch.testing.assert_close(samples.T.cov(), expected, atol=0.001, rtol=0)
    torch.testing.assert_close(samples.mean(0), x.flatten(1).mean(0), atol=0.01, rtol=0)


def test_reconstruction_is_projection_and_decode_inverts_encode():
    x = pictures(40).double()
    model = linear(x, 3)
    model.calibrate(iter([Batch(x, Condition())]))
    directions, _ = principal_components(x, 3)
    mean = x.flatten(1).mean(0)
    projected = mean + (x.flatten(1) - mean) @ directions @ directions.T
    torch.testing.assert_close(model.reconstruct(x).flatten(1).double(), projected)
    z = torch.randn(7, 3, dtype=torch.float64)
    torch.testing.assert_close(model.encode(model.decode(z)), z)
    half = model.interpolate(x[:1], x[1:2], steps=3)[:, 1]
    torch.testing.assert_close(half.flatten().double(), projected[:2].mean(0))


def test_constant_codes_stay_finite():
    """The code has more numbers than the data have directions: its covariance is singular."""
    x = pictures(16, rank=1).double()
    model = linear(x, 3)
    with torch.no_grad():
        model.encoder.perceptron.layers[0].weight[0] = 0
    model.calibrate(iter([Batch(x, Condition())]))
    assert bool(model.encode(x).isfinite().all())
    assert bool(model.sample(5).isfinite().all())


def test_constant_pixels_have_no_gradient():
    """Perceptrons see the difference from the mean picture."""
    x = pictures(64).double()
    x[:, :, 0], x[:, :, 1, :2] = -1, 1
    model: Any = Autoencoder(SPEC, latent=2, hidden=(5,)).double()
    model.prepare(iter([Batch(x[:32], Condition()), Batch(x[32:], Condition())]))
    torch.testing.assert_close(model.encoder.centre, x.mean(0))
    turn = next(model.turns(Batch(x, Condition()), 0, Noise.keyed(0, 0, range(64))))
    (slope,) = torch.autograd.grad(turn.loss, [model.encoder.perceptron.layers[0].weight])
    size = slope.abs().amax(0).view(3, 4)
    assert float(size[0].max()) < 1e-12 and float(size[1, :2].max()) < 1e-12
    assert float(size[2].min()) > 1e-6


def test_an_autoencoder_has_no_likelihood():
    assert not issubclass(Autoencoder, LikelihoodModel)


def test_any_size_is_halved_and_rounded_up():
    assert halvings(28, 5, 3) == [(28, 5), (14, 3), (7, 2), (4, 1)]
    for height, width in ((1, 2), (7, 9)):
        model = Autoencoder(ImageSpec(2, height, width), latent=2, channels=(4, 8))
        x = torch.rand(3, 2, height, width)
        assert model.reconstruct(x).shape == x.shape


def test_many_pictures_are_encoded_in_parts(monkeypatch):
    """Reconstructions and paths stay the same if at most 3 pictures are processed together."""
    monkeypatch.setattr(codes, "_BATCH_SIZE", 3)
    x = pictures(8).double()
    model, sizes = linear(x, 3), list[int]()
    encode, decode = model.encode, model.decode
    expected = decode(encode(x)).detach().clamp(-1, 1).float()
    middle = decode((encode(x[:4]) + encode(x[4:])) / 2).detach().float()

    def counted(method):
        return lambda rows, c: sizes.append(len(rows)) or method(rows, c)

    monkeypatch.setattr(model, "encode", counted(encode))
    monkeypatch.setattr(model, "decode", counted(decode))
    torch.testing.assert_close(model.reconstruct(x), expected)
    assert sizes == [3, 3, 2] * 2
    torch.testing.assert_close(model.interpolate(x[:4], x[4:], steps=3)[:, 1], middle)
    assert max(sizes) == 3


def test_the_great_circle():
    """The path starts and ends at the two codes. Between unit vectors, its norm and its speed are
    constant. It is a straight line where there is no unique circle."""
    a, b = torch.randn(2, 5, 16, dtype=torch.float64)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    ends = slerp(a, b, t)[:, [0, -1]]
    torch.testing.assert_close(ends, torch.stack([a, b], 1))
    a, b = (v / v.norm(dim=1, keepdim=True) for v in (a, b))
    path = slerp(a, b, t)
    torch.testing.assert_close(path.norm(dim=2), torch.ones(5, 9, dtype=torch.float64))
    angle = (a * b).sum(1).acos()
    steps = (path[:, 1:] * path[:, :-1]).sum(2).acos()
    torch.testing.assert_close(steps, (angle / 8)[:, None].expand(-1, 8))
    torch.testing.assert_close(slerp(a, a, t), lerp(a, a, t))
    torch.testing.assert_close(slerp(a, -a, t), lerp(a, -a, t))
    middle = slerp(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]]), torch.tensor([0.5]))
    torch.testing.assert_close(middle[0, 0], torch.tensor([2.0, 4.0]) * math.sqrt(0.5))


def test_a_traversal_sets_one_coordinate_to_each_value():
    x = pictures(60).double()
    model = linear(x, 3)
    model.calibrate(iter([Batch(x, Condition())]))
    traversal = model.traverse(x[:1], coordinates=(2, 0), values=(-1, 0.5))
    z = model.encode(x[:1])
    z[0, 2] = 0.5
    torch.testing.assert_close(traversal[0, 1], model.decode(z)[0].float())
    by_count = model.traverse(x[:1], coordinates=1, values=(-1, 1))
    first = model.traverse(x[:1], coordinates=[0], values=(-1, 1))
    torch.testing.assert_close(by_count, first)  # coordinate 0 has the largest variance


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.reconstruct(x[:, :, :2]), "codes of 1 x 3 x 4 pictures, not of 1 x 2 x 4"),
        (lambda m, x: m.interpolate(x, x, steps=1), "at least 2"),
        (lambda m, x: m.interpolate(x, x[:1]), "cannot be paired"),
        (lambda m, x: m.traverse(x[:1], coordinates=[3]), "coordinates 0 to 2"),
        (lambda m, x: m.traverse(x), r"x has \d+ pictures, .*; give x\[:1\]"),
        (lambda m, x: m.reconstruct(x, Condition(label=torch.zeros(2).long())), "give one"),
    ],
)
def test_wrong_use_says_what_is_wrong(call, message, unchecked_shapes):
    with pytest.raises(LimnerError, match=message):
        call(Autoencoder(SPEC, latent=3), torch.zeros(4, 1, 3, 4))


def test_training_mode_is_left_unchanged():
    model = Autoencoder(SPEC, latent=2)
    assert model.training
    assert not model.reconstruct(torch.zeros(1, 1, 3, 4)).requires_grad
    assert model.training
