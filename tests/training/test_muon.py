"""Muon against PyTorch's on matrices, and on kernels viewed as matrices."""

import pytest
import torch
from torch import nn

from limner.training.muon import MIN_SIDE, Muon, orthogonal

OPTIONS = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}


def _gradients(shape: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator) for _ in range(4)]


@pytest.mark.parametrize("shape", [(64, 64), (64, 160), (160, 64)])
def test_singular_values_are_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonal(matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.5 and values.max() < 1.3
    exact = u @ v
    assert (result * exact).sum() / result.norm() / exact.norm() > 0.97


@pytest.mark.parametrize("shape", [(64, 160), (160, 64)])
def test_the_update_of_a_matrix_equals_pytorchs(shape: tuple[int, int]) -> None:
    parameter, reference = (nn.Parameter(torch.ones(shape) / 8) for _ in range(2))
    ours = Muon([parameter], **OPTIONS)
    theirs = torch.optim.Muon(
        [reference], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for gradient in _gradients(shape):
        parameter.grad, reference.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step()
    # The two round differently in bfloat16.
    assert (parameter - reference).abs().max() < 0.03 * (parameter - 1 / 8).abs().max()


def test_the_update_of_a_kernel_equals_that_of_its_matrix() -> None:
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


def test_other_parameters_are_updated_as_with_adamw() -> None:
    shapes = [(64,), (MIN_SIDE - 1, 128), (64, 3, 3, 3)]
    parameters, references = (
        [nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2)
    )
    ours, theirs = Muon(parameters, **OPTIONS), torch.optim.AdamW(references, **OPTIONS, fused=True)
    for step in range(3):
        for p, q in zip(parameters, references):
            p.grad = _gradients(tuple(p.shape))[step]
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    assert all(torch.equal(p, q) for p, q in zip(parameters, references))


def test_a_matrix_trained_with_adamw_before_starts_without_momentum():
    weights, gradient = torch.randn(2, MIN_SIDE, MIN_SIDE), torch.randn(MIN_SIDE, MIN_SIDE)
    results: list[torch.Tensor] = []
    for state in ({}, {"step": torch.tensor(3.0), "exp_avg": weights[1], "exp_avg_sq": weights[1]}):
        p = nn.Parameter(weights[0].clone())
        optimizer = Muon([p], lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
        optimizer.state[p].update(state)
        p.grad = gradient.clone()
        optimizer.step()
        assert list(optimizer.state[p]) == ["momentum"]
        results.append(p.detach())
    assert torch.equal(*results)
