"""Muon against PyTorch's own on matrices, and on kernels as the matrices that they are."""

import pytest
import torch
from torch import nn

from limner.training.muon import NARROWEST, Muon, orthogonal

OPTIONS = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}


def _gradients(shape: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator) for _ in range(4)]


@pytest.mark.parametrize("shape", [(64, 64), (64, 160), (160, 64)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonal(matrix)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5 and values.max() < 1.3
    exact = u @ v
    assert (found * exact).sum() / found.norm() / exact.norm() > 0.97


@pytest.mark.parametrize("shape", [(64, 160), (160, 64)])
def test_a_matrix_moves_as_by_pytorch(shape: tuple[int, int]) -> None:
    own, peer = (nn.Parameter(torch.ones(shape) / 8) for _ in range(2))
    mine = Muon([own], **OPTIONS)
    theirs = torch.optim.Muon(
        [peer], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for gradient in _gradients(shape):
        own.grad, peer.grad = gradient.clone(), gradient.clone()
        mine.step()
        theirs.step()
    assert (own - peer).abs().max() < 0.03 * (own - 1 / 8).abs().max()  # bfloat16 rounds elsewhere


def test_a_kernel_moves_as_its_matrix() -> None:
    kernel = nn.Parameter(torch.zeros(64, 16, 3, 3).to(memory_format=torch.channels_last))
    matrix = nn.Parameter(torch.zeros(64, 144))
    first, second = Muon([kernel], **OPTIONS), Muon([matrix], **OPTIONS)
    for gradient in _gradients((64, 16, 3, 3)):
        kernel.grad = gradient.to(memory_format=torch.channels_last)
        matrix.grad = gradient.flatten(1).clone()
        first.step()
        second.step()
    assert kernel.abs().max() > 0
    torch.testing.assert_close(kernel.flatten(1), matrix)


def test_everything_else_moves_as_by_adamw() -> None:
    shapes = [(64,), (NARROWEST - 1, 128), (64, 3, 3, 3)]
    own, peers = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    mine, theirs = Muon(own, **OPTIONS), torch.optim.AdamW(peers, **OPTIONS, fused=True)
    for step in range(3):
        for p, q in zip(own, peers):
            p.grad = _gradients(tuple(p.shape))[step]
            q.grad = p.grad.clone()
        mine.step()
        theirs.step()
    assert all(torch.equal(p, q) for p, q in zip(own, peers))


def test_a_matrix_that_was_adamws_goes_on_with_no_momentum():
    weights, gradient = torch.randn(2, NARROWEST, NARROWEST), torch.randn(NARROWEST, NARROWEST)
    found: list[torch.Tensor] = []
    for state in ({}, {"step": torch.tensor(3.0), "exp_avg": weights[1], "exp_avg_sq": weights[1]}):
        p = nn.Parameter(weights[0].clone())
        optimizer = Muon([p], lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
        optimizer.state[p].update(state)
        p.grad = gradient.clone()
        optimizer.step()
        assert list(optimizer.state[p]) == ["momentum"]
        found.append(p.detach())
    assert torch.equal(*found)
