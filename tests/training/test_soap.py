"""SOAP against pytorch_optimizer's on matrices, and on kernels viewed as matrices."""

from collections.abc import Sequence

import pytest
import pytorch_optimizer
import torch
from torch import nn

from limner.runtime import processes
from limner.training import soap
from limner.training.soap import MAX_SIDE, SOAP, UPDATE_PERIOD

OPTIONS = {"lr": 0.01, "betas": (0.95, 0.9), "weight_decay": 0.0}
UPDATES = 25  # the eigenvectors are updated twice


def _gradients(shape: tuple[int, ...]) -> list[torch.Tensor]:
    """Return gradients with different sizes per direction and a mean other than zero."""
    generator = torch.Generator().manual_seed(3)
    mean, *others = torch.randn(UPDATES + 1, *shape, generator=generator, dtype=torch.float64)
    return [mean + other * torch.linspace(1, 3, shape[-1]) for other in others]


@pytest.mark.parametrize("shape", [(24, 24), (20, MAX_SIDE + 8), (MAX_SIDE + 8, 20)])
def test_the_update_of_a_matrix_equals_pytorch_optimizers(shape: tuple[int, int]) -> None:
    """The longest side is the same. With fewer rows than columns and both sides rotated, the first
    eigenvectors would not be unique."""
    parameter, reference = (
        nn.Parameter(torch.ones(shape, dtype=torch.float64) / 8) for _ in range(2)
    )
    ours = SOAP([parameter], **OPTIONS)
    theirs = pytorch_optimizer.SOAP([reference], **OPTIONS, max_precondition_dim=MAX_SIDE)
    for gradient in _gradients(shape):
        parameter.grad, reference.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step()
    assert (parameter - 1 / 8).abs().max() > 0.1
    torch.testing.assert_close(parameter, reference, rtol=0, atol=2e-6)


def test_the_update_of_a_kernel_equals_that_of_its_matrix() -> None:
    kernel = nn.Parameter(torch.zeros(64, 16, 3, 3).to(memory_format=torch.channels_last))
    matrix = nn.Parameter(torch.zeros(64, 144))
    first, second = SOAP([kernel], **OPTIONS), SOAP([matrix], **OPTIONS)
    for gradient in _gradients((64, 16, 3, 3)):
        kernel.grad = gradient.float().to(memory_format=torch.channels_last)
        matrix.grad = gradient.float().flatten(1)
        first.step()
        second.step()
    assert kernel.abs().max() > 0
    torch.testing.assert_close(kernel.flatten(1), matrix)


def test_other_parameters_are_updated_as_with_adamw() -> None:
    shapes = [(64,), (), (MAX_SIDE + 1, MAX_SIDE + 1)]
    options = OPTIONS | {"weight_decay": 0.1}
    parameters, references = (
        [nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2)
    )
    ours, theirs = SOAP(parameters, **options), torch.optim.AdamW(references, **options, fused=True)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        for p, q in zip(parameters, references):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    assert all(torch.equal(p, q) for p, q in zip(parameters, references))


def test_weight_decay_is_decoupled_from_the_gradient() -> None:
    free, decayed = (nn.Parameter(torch.ones(8, 8)) for _ in range(2))
    optimisers = [
        SOAP([p], **OPTIONS | {"weight_decay": w}) for p, w in ((free, 0), (decayed, 0.5))
    ]
    gradient = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        for p, optimiser in zip((free, decayed), optimisers):
            p.grad = gradient.clone()
            optimiser.step()
    torch.testing.assert_close(free - decayed, torch.full((8, 8), 0.01 * 0.5))


def test_it_continues_from_copies_of_its_state() -> None:
    """A resumed run does this; the moments are then row-major in memory."""
    weights = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    results = []
    for stop in (None, 13):
        p = nn.Parameter(weights.clone())
        optimiser = SOAP([p], **OPTIONS)
        for step, gradient in enumerate(_gradients((40, 30))):
            if step == stop:
                state = optimiser.state[p]
                assert all(value.is_contiguous() for value in state.values())
                optimiser = SOAP([p], **OPTIONS)
                optimiser.state[p] = {key: value.clone() for key, value in state.items()}
            p.grad = gradient.float()
            optimiser.step()
        results.append(p.detach())
    assert torch.equal(*results)


def test_all_processes_use_the_eigenvectors_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients do not determine most directions; rounding does, which differs between machines."""
    messages: list[torch.Tensor] = []
    results: list[torch.Tensor] = []
    exact = soap._gram_matrix

    def rounded(matrix: torch.Tensor, side: int) -> torch.Tensor:
        return exact(matrix, side) * (1 + 1e-6)

    def send(tensors: Sequence[torch.Tensor]) -> None:
        messages.extend(tensor.clone() for tensor in tensors)

    def receive(tensors: Sequence[torch.Tensor]) -> None:
        for tensor in tensors:
            tensor.copy_(messages.pop(0))

    for broadcast, spread in ((send, exact), (receive, rounded)):
        monkeypatch.setattr(processes, "broadcast_", broadcast)
        monkeypatch.setattr(soap, "_gram_matrix", spread)
        p = nn.Parameter(torch.zeros(24, 24))
        optimiser = SOAP([p], **OPTIONS)
        for gradient in _gradients((24, 24)):
            p.grad = (gradient[:, :1] @ gradient[:1]).float()
            optimiser.step()
        results.append(p.detach())
    assert not messages
    assert torch.equal(*results)


def test_its_moments_need_no_more_memory_than_their_numbers() -> None:
    p = nn.Parameter(torch.zeros(8, 8))
    optimiser = SOAP([p], **OPTIONS)
    for gradient in _gradients((8, 8))[: UPDATE_PERIOD + 2]:
        p.grad = gradient.float()
        optimiser.step()
    for value in optimiser.state[p].values():
        assert value.untyped_storage().nbytes() == value.nbytes


@pytest.mark.parametrize("left", [{}, {"step": torch.tensor(3.0), "exp_avg": torch.ones(8, 8)}])
def test_the_first_gradient_only_initialises(left: dict[str, torch.Tensor]) -> None:
    """Moments of another optimiser, from a run that changed to this one, are discarded."""
    p = nn.Parameter(torch.zeros(8, 8))
    optimiser = SOAP([p], **OPTIONS)
    optimiser.state[p].update(left)
    p.grad = torch.eye(8)
    optimiser.step()
    assert not p.any() and p.grad is None
    assert set(optimiser.state[p]) == {
        "turns", "first", "second", "spread0", "basis0", "spread1", "basis1"
    }  # fmt: skip
