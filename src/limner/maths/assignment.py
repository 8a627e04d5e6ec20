"""Optimal transport between two sets of equal size: the pairs of points with the least cost."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def assignment(cost: Float[Tensor, "n n"]) -> Int[Tensor, "n"]:
    """Return the permutation that minimises sum_i cost[i, permutation[i]], exactly.

    Shortest augmenting paths with dual variables u and v, u_i + v_j <= cost_ij, O(n^3): Jonker,
    Volgenant (1987). A shortest augmenting path algorithm for dense and sparse linear assignment
    problems. Computing.

    Args:
        cost: the cost of pairing each row with each column.
    """
    c = cost.detach().double().cpu().numpy()
    n = len(c)
    u, v = np.zeros(n), np.zeros(n)
    row_of = np.full(n, -1)  # the row assigned to each column
    for start in range(n):
        dist, pred = np.full(n, np.inf), np.full(n, -1)  # the shortest path to each column
        visited = np.zeros(n, dtype=bool)
        row, column, length = start, -1, 0.0
        while row >= 0:
            lengths = length + c[row] - u[row] - v
            is_shorter = ~visited & (lengths < dist)
            dist[is_shorter], pred[is_shorter] = lengths[is_shorter], column
            column = int(np.where(visited, np.inf, dist).argmin())
            length, row = dist[column], int(row_of[column])
            visited[column] = True
        inner = visited & (row_of >= 0)
        u[start] += length
        u[row_of[inner]] += length - dist[inner]
        v[inner] -= length - dist[inner]
        while column >= 0:  # along the path, each column takes the row of the one before
            previous = int(pred[column])
            row_of[column] = start if previous < 0 else row_of[previous]
            column = previous
    return torch.from_numpy(np.argsort(row_of)).to(cost.device)
