"""Optimisers and schedules against closed forms."""

import math

import pytest
import torch
from torch import nn

from limner.training import optimisers


def test_schedules_have_their_formulas():
    rates = [optimisers.rate(step, 100, schedule="cosine", warmup=10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert [optimisers.rate(step, 9, warmup=4) for step in (0, 1, 3, 8)] == [0.25, 0.5, 1, 1]
    line = [optimisers.rate(step, 200, schedule="linear") for step in (0, 99, 100, 101, 150, 199)]
    assert line == pytest.approx([1, 1, 1, 0.99, 0.5, 0.01])


@pytest.mark.parametrize("name", ["adamw", "adam", "rmsprop"])
def test_optimisers_lower_the_loss_and_adam_follows_its_paper(name):
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    opt = optimisers.optimizer(name, [weight], lr=0.1, betas=(0.5, 0.9), weight_decay=0.0)
    weight.square().sum().backward()
    opt.step()
    # The first step is lr sign(gradient) for Adam, lr sign / sqrt(1 - beta_2) for RMSProp.
    length = 0.1 / math.sqrt(1 - 0.9) if name == "rmsprop" else 0.1
    expected = torch.tensor([1.0 - length, -2.0 + length])
    torch.testing.assert_close(weight.detach(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["muon", "soap"])
def test_a_closure_may_compute_gradients(name):
    weight = nn.Parameter(torch.ones(40, 40))
    opt = optimisers.optimizer(name, [weight], lr=0.1, betas=(0.5, 0.9), weight_decay=0.0)

    def closure() -> torch.Tensor:
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert opt.step(closure).item() == 1600
    assert opt.step(closure).item() <= 1600


def test_decoupled_weight_decay():
    weight = nn.Parameter(torch.ones(1))
    opt = optimisers.optimizer("adamw", [weight], lr=0.1, betas=(0.9, 0.999), weight_decay=0.5)
    weight.grad = torch.zeros(1)
    opt.step()
    assert weight.item() == pytest.approx(1 - 0.1 * 0.5)
