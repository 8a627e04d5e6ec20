"""Optimal pairings, compared with scipy's."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from limner.maths.assignment import assignment


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_the_cost_of_the_pairing_equals_scipys(n: int):
    for _ in range(5):
        cost = torch.randn(n, n)
        ours = assignment(cost)
        assert sorted(ours.tolist()) == list(range(n))
        rows, columns = linear_sum_assignment(cost.numpy())
        expected = float(cost[rows, columns].sum())
        assert float(cost[torch.arange(n), ours].sum()) == pytest.approx(expected, abs=1e-5)


def test_ties_are_paired():
    assert sorted(assignment(torch.zeros(6, 6)).tolist()) == list(range(6))
    cost = torch.randint(0, 3, (12, 12))
    rows, columns = linear_sum_assignment(cost.numpy())
    ours = assignment(cost.float())
    assert int(cost[torch.arange(12), ours].sum()) == int(cost[rows, columns].sum())


def test_in_one_dimension_the_order_is_kept():
    """In one dimension, sorting minimises the squared distance."""
    x, y = torch.randn(50, 1), torch.randn(50, 1)
    paired = assignment(torch.cdist(x, y).square())
    assert torch.equal(y[paired, 0][x[:, 0].argsort()], y[:, 0].sort().values)
