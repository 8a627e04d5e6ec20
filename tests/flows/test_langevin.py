"""Langevin sampling against a known distribution, and a flow that completes pictures with it."""

from typing import Any

import torch

from limner.contract.image import ImageSpec, from_levels
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.flows.langevin import langevin


def test_a_drawn_part_has_its_conditional_distribution():
    """For log p(y) of two numbers in a square, compare y_2 given y_1 with values from a grid."""

    def log_density(y):
        first, second = y.flatten(1).unbind(1)
        return 8 * first * second - 20 * (second - 0.6).square()

    n = 2000
    y = torch.tensor([0.8, 0.1], dtype=torch.float64).expand(n, 1, 1, 2)
    mask = torch.tensor([0.0, 1.0], dtype=torch.float64).expand(n, 1, 1, 2)
    *_, samples = langevin(log_density, y, mask, Noise.sampling(0, n), steps=120)
    line = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    p = log_density(torch.stack([torch.full_like(line, 0.8), line], 1)).softmax(0)
    mean = float((p * line).sum())
    deviation = float((p * (line - mean).square()).sum().sqrt())
    assert bool(samples[..., 0].eq(0.8).all())
    assert abs(float(samples[..., 1].mean()) - mean) < 4 * deviation / n**0.5
    assert abs(float(samples[..., 1].std()) / deviation - 1) < 0.08


def test_a_flow_draws_a_part_of_a_picture_on_the_grid_of_levels():
    spec = ImageSpec(1, 4, 4, levels=4)
    model: Any = build("glow", spec, L=1, K=2, hidden=4)
    model.eval()
    x = from_levels(torch.randint(4, (3, 1, 4, 4)), 4)
    mask = torch.zeros(3, 1, 4, 4)
    mask[:, :, 2:] = 1
    frames = list(model.edit(x, mask=mask, rounds=20, seed=4))
    assert len(frames) == model.edit_count()
    assert all(torch.equal(frame[:, :, :2], x[:, :, :2]) for frame in frames)
    k = (frames[-1] + 1) * 1.5
    assert torch.allclose(k, k.round(), atol=1e-5)
    (single,) = model.edit(x[1:2], mask=mask[1:2], rounds=20, seed=5, preview=False)
    assert torch.equal(single, frames[-1][1:2])
    edited = list(model.edit(x, strength=0.01, seed=4))[-1]
    assert float((edited - x).abs().mean()) < 0.3, "low strength must stay near the picture"
