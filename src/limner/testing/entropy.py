"""Promise 11, the entropy floor: no model may compress data of a known law below its entropy.

For x from p with E log p(x) = -H, every q has E log q(x) <= -H (Gibbs), and a lower bound on log q all the more. A
forgotten Jacobian, a wrong dequantisation constant or a wrong sign of a KL shows as an impossible compression.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limner.errors import LimnerError
from limner.image import Batch, Images, ImageSpec, from_levels
from limner.model import Likelihood
from limner.noise import Noise
from limner.testing.cases import SEED, Case, random_conditions
from limner.train import Loop, TrainOptions


def check_entropy_floor(case: Case) -> None:
    """11. No model may assign data more probability than the law that made them, before or after training.

    For x from p with E log p(x) = -H, E log q(x) <= -H for every q (Gibbs), a bound on log q all the more. Both
    laws are known here, so the mean of log q(x) - log p(x) is tested against 3 of its standard errors. And where the
    model takes an image of two pixels, the probabilities of all such images sum to one at most.
    """
    for law in (uniform_pixels, copied_pixels):
        model = case.ready()
        _below(model, law, "before training")
        data = _laid_out(case, law)
        options = TrainOptions(steps=40, batch=16, lr=3e-3, ema=0.5, seed=SEED, channels_last=False)
        loop = Loop(case.build(), data, options)
        loop.prepare()
        for _ in range(options.steps):
            loop.advance()
        _below(loop.calibrated(), law, "after training")
    _sums_to_one(case)


Law = Callable[[ImageSpec, Noise], tuple[Images, Float[Tensor, "b"]]]
"""Images of a known distribution, and log p of each in nats."""


def uniform_pixels(spec: ImageSpec, noise: Noise) -> tuple[Images, Float[Tensor, "b"]]:
    """Every image alike: the highest entropy there is, which shows the smallest wrong constant."""
    k = noise.integers(spec.levels, *spec.shape)
    nats = -spec.dimensions * math.log(spec.levels)
    return from_levels(k, spec.levels), torch.full((len(noise),), nats)


def copied_pixels(spec: ImageSpec, noise: Noise) -> tuple[Images, Float[Tensor, "b"]]:
    """Each number is the one before with probability 0.9, else any: a chain with strongly dependent pixels."""
    D, L = spec.dimensions, spec.levels
    fresh = noise.uniform(D) >= 0.9
    fresh[:, 0] = True
    last_fresh = torch.where(fresh, torch.arange(D), 0).cummax(1).values
    k = noise.integers(L, D).gather(1, last_fresh)
    stay, move = math.log(0.9 + 0.1 / L), math.log(0.1 / L)
    steps = torch.where(k[:, 1:] == k[:, :-1], stay, move).sum(1)
    return from_levels(k.view(-1, *spec.shape), L), steps - math.log(L)


def _laid_out(case: Case, law: Law) -> Callable[[int, int], Batch]:
    def batches(first: int, n: int) -> Batch:
        noise = Noise.keyed(SEED, 3, range(first, first + n))
        return Batch(law(case.spec, noise)[0], random_conditions(case.spec, noise))

    return batches


def _below(model: Any, law: Law, when: str) -> None:
    n = 64
    noise = Noise.keyed(SEED, 4, range(n))
    x, truth = law(model.spec, noise)
    with torch.no_grad():
        said: Likelihood = model.log_prob(x, random_conditions(model.spec, noise), noise=noise)
    assert said.kind in ("exact", "lower", "estimate"), f"a likelihood of the kind '{said.kind}'"
    assert said.nats.shape == (n,), f"likelihoods of the shape {tuple(said.nats.shape)}"
    assert bool(said.nats.isfinite().all()), f"a likelihood is not finite {when}"
    gain = said.nats.double() - truth.double()
    slack = 0.1 * math.log(2) * model.spec.dimensions if said.kind == "estimate" else 0.01
    assert float(gain.mean()) <= 3 * float(gain.std()) / math.sqrt(n) + slack, (
        f"{when}, {law.__name__} are compressed below their entropy, by "
        f"{float(gain.mean()) / (model.spec.dimensions * math.log(2)):.3f} bits/dim; is a Jacobian, a "
        "dequantisation constant or a sign wrong?"
    )


def _sums_to_one(case: Case) -> None:
    """The sum over all images of two pixels, where the model can be made so small."""
    channels, levels = case.spec.channels, min(case.spec.levels, 4)
    hint = case.spec.hint and case.spec.hint.resized(1, 2)
    small = replace(case, spec=replace(case.spec.resized(1, 2), levels=levels, hint=hint))
    if channels > 1:
        return
    every = torch.cartesian_prod(*[torch.arange(levels)] * 2).view(-1, 1, 1, 2)
    try:
        model: Any = small.ready()
        one = model.log_prob(
            from_levels(every, levels), random_conditions(small.spec, Noise.sampling(0, len(every))),
            noise=Noise.sampling(0, len(every)),
        )  # fmt: skip
    except (LimnerError, RuntimeError, ValueError):
        return  # too small for this network
    if one.kind == "estimate":
        return
    repeats = 128
    x = from_levels(every.repeat_interleave(repeats, 0), levels)
    c = random_conditions(small.spec, Noise.sampling(0, 1)).repeat(len(x))
    with torch.no_grad():
        nats = model.log_prob(x, c, noise=Noise.sampling(0, len(x))).nats
    total = float(nats.view(-1, repeats).mean(1).exp().sum())
    assert total <= (1.001 if one.kind == "exact" else 1.1), (
        f"the probabilities of all {len(every)} images sum to {total:.3f}"
    )
