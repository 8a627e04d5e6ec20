"""Rounding weights: columns that compensate each other's errors, and step sizes."""

import importlib.util
from pathlib import Path

import torch

SPEC = importlib.util.spec_from_file_location(
    "round_weights", Path(__file__).parents[2] / "tools" / "round_weights.py"
)
assert SPEC and SPEC.loader
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


def test_columns_compensate_each_others_errors():
    """With correlated inputs, outputs are nearer than with independently rounded weights."""
    torch.manual_seed(0)
    x = torch.randn(4000, 8).double() @ torch.randn(8, 32).double() + 0.1 * torch.randn(4000, 32)
    weight, step = torch.randn(16, 32), torch.full((16,), 0.5).double()
    found = tool.round_layer(weight, x.T @ x / len(x), step)
    multiples = found.double() / step[:, None]
    torch.testing.assert_close(multiples, multiples.round(), atol=1e-5, rtol=0)
    plain = (weight / 0.5).round() * 0.5

    def error(w):
        return float(((w - weight).double() @ x.T).square().mean())

    assert error(found) < 0.25 * error(plain)


def test_with_uncorrelated_inputs_weights_are_rounded_independently():
    torch.manual_seed(0)
    weight, step = torch.randn(4, 8), torch.rand(4).double() + 0.1
    found = tool.round_layer(weight, torch.eye(8).double(), step)
    plain = (weight.double() / step[:, None]).round() * step[:, None]
    torch.testing.assert_close(found.double(), plain, atol=1e-6, rtol=0)


def test_masked_weights_are_zero_and_compensate_nothing():
    torch.manual_seed(0)
    x = torch.randn(4000, 6).double() @ torch.randn(6, 12).double()
    weight, moments, step = torch.randn(4, 12), x.T @ x, torch.full((4,), 0.5).double()
    seen = torch.arange(12) % 3 > 0
    alone = tool.round_layer(weight[:, seen], moments[seen][:, seen], step)
    tool.forget(weight, moments, seen * torch.ones(4, 12))
    found = tool.round_layer(weight, moments, step)
    assert not found[:, ~seen].any()
    error = float((found[:, seen] - alone).abs().mean())
    assert error < 0.05, "only the damping may differ, which depends on the number of columns"


def test_steps_have_the_mean_entropy_and_are_finer_for_important_weights():
    torch.manual_seed(0)
    weights = {name: torch.randn(50, 400) for name in ("much", "little")}
    squares = {"much": torch.full((50, 400), 1e-2), "little": torch.full((50, 400), 1e-4)}
    step = tool.steps(weights, squares, 4.0)
    ratio = float(step["little"].mean() / step["much"].mean())
    assert abs(ratio - 10) < 1, "the ratio must be the root of that of the mean squares"
    bits = 0.0
    for name, weight in weights.items():
        q = (weight.double() / step[name][:, None]).round()
        _, counts = q.unique(return_counts=True)
        share = counts / counts.sum()
        bits += float(-(share * share.log2()).sum()) / 2
    assert abs(bits - 4) < 0.1
