"""A whole new paper in one file: copy it to src/limner/<family>/<paper>.py and change it.

Dinh, Krueger, Bengio (2014). NICE: non-linear independent components estimation. arXiv:1410.8516.

An invertible network f maps images to noise, so log p(x) = log p(f(x)) + log |det df/dx|.
Kept: additive couplings (equations 9, 10) with a determinant of one, then a scale for each number
(section 3.3). Different: a normal prior, and smaller networks.

    python -m limner.testing examples/new_paper.py     # checks the contract, then trains: a minute
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from limner import Condition, Images, ImageSpec, LikelihoodModel, Noise, Paper, register
from limner.contract.image import from_levels, to_levels
from limner.contract.likelihood import Likelihood
from limner.contract.options import Count

TITLE = "NICE: non-linear independent components estimation"
PAPER = Paper(TITLE, "Dinh, Krueger, Bengio", 2014, "1410.8516")


# To register is to be tested; `tiny` makes the model small for that.
@register("nice", family="flows", paper=PAPER, tiny={"width": 8})
class Nice(LikelihoodModel):  # so it needs no `turns`: its loss is bits per dimension
    """NICE: additive couplings, in which half of the numbers shift the other half.

    Args:
        width: features of the hidden layer of each coupling's network.
        couplings: number of couplings.
    """

    takes = ()  # it learns no labels, captions or hints, so data with any of them are refused

    # The arguments are the configuration: plain values, checked and stored automatically.
    def __init__(self, spec: ImageSpec, width: Count = 256, couplings: Count = 4) -> None:
        super().__init__()
        D = spec.dimensions
        self.m = nn.ModuleList(
            nn.Sequential(nn.Linear(D, width), nn.ReLU(), nn.Linear(width, D))
            for _ in range(couplings)
        )
        self.log_s = nn.Parameter(torch.full((D,), math.log(12) / 2))  # uniform h: deviation 1

    def formula(self) -> list[str]:
        """Return the mathematics in a few lines, which `print(model)` shows."""
        return ["log p(x) >= E log N(z; 0, I) + sum log s - D log L,  z = s f((x + u) / L - 1 / 2)"]

    def couple(self, h: Tensor, i: int, sign: int) -> Tensor:
        """Return y_1 = x_1, y_2 = x_2 + m(x_1), or the inverse (sign -1); halves swap with i."""
        second = (torch.arange(h.shape[1], device=h.device) + i) % 2
        return h + sign * second * self.m[i]((1 - second) * h)

    def log_prob(self, x: Images, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        """Return a lower bound, as noise fills each level's cell; limner prints "<=" before it."""
        L, D = self.spec.levels, self.spec.dimensions
        h = (to_levels(x, L).flatten(1) + noise.uniform(D)) / L - 0.5  # |dh/dx| = 1 / L; "b D"
        for i in range(len(self.m)):
            h = self.couple(h, i, 1)
        z = self.log_s.exp() * h
        log_prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
        return Likelihood(log_prior + self.log_s.sum() - D * math.log(L), "lower")

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        """Map noise through the inverse; further arguments are options of `limner sample`."""
        h = noise.normal(self.spec.dimensions) / self.log_s.exp()
        for i in reversed(range(len(self.m))):
            h = self.couple(h, i, -1)
        k = ((h + 0.5) * self.spec.levels).floor().clamp(0, self.spec.levels - 1).long()
        yield from_levels(k.view(n, *self.spec.shape), self.spec.levels)
