"""Promise 11, the entropy floor: no model may compress data of a known law below its entropy.

For x from p with E log p(x) = -H, every q has E log q(x) <= -H (Gibbs); a lower bound on log q is
lower still. A missing Jacobian, a wrong dequantisation constant or a wrong sign of a KL divergence
shows as an impossible compression.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Images, ImageSpec, from_levels
from limner.contract.likelihood import Likelihood
from limner.contract.noise import Noise
from limner.testing.cases import SEED, Case, likelihood, random_conditions
from limner.training.loop import Loop, TrainOptions


def check_entropy_floor(case: Case) -> None:
    """11. No model gives data more probability than the law that made them, trained or not.

    Both laws are known here, so the mean of log q(x) - log p(x) is tested against 3 of its standard
    errors. If the model takes an image of two pixels, the probabilities of all such images must
    sum to one; for a bound, to one at most. A model with an optional condition is trained on one of
    the laws only.
    """
    conditional = bool(case.spec.labels or case.spec.text or case.spec.hint)
    optional = conditional and getattr(case.model, "condition", "optional") == "optional"
    for law in (uniform_pixels, copied_pixels):
        _check_below_entropy(case.ready(), law, "before training")
        if law is copied_pixels or not optional:
            _check_below_entropy(_train(case, law, lr=3e-3), law, "after training")
    small = _two_pixels(case)
    if small is not None:
        _check_sum(small.ready(), "before training")
        if not optional:
            _check_sum(_train(small, uniform_pixels, lr=3e-2), "after training")


def _train(case: Case, law: "Law", lr: float) -> Any:
    def batches(first: int, n: int) -> Batch:
        noise = Noise.keyed(SEED, 3, range(first, first + n))
        return Batch(law(case.spec, noise)[0], random_conditions(case.spec, noise))

    loop = Loop(case.build(), batches, TrainOptions(steps=24, batch=16, lr=lr, ema=0.5, seed=SEED))
    loop.prepare()
    for _ in range(loop.options.steps):
        loop.advance()
    return loop.calibrated_model()


Law = Callable[[ImageSpec, Noise], tuple[Images, Float[Tensor, "b"]]]
"""A function that returns images of a known distribution, and log p of each in nats."""


def uniform_pixels(spec: ImageSpec, noise: Noise) -> tuple[Images, Float[Tensor, "b"]]:
    """Return images that are all equally likely: the highest entropy, which shows the smallest
    wrong constant."""
    k = noise.integers(spec.levels, *spec.shape)
    nats = -spec.dimensions * math.log(spec.levels)
    return from_levels(k, spec.levels), torch.full((len(noise),), nats)


def copied_pixels(spec: ImageSpec, noise: Noise) -> tuple[Images, Float[Tensor, "b"]]:
    """Return images in which each number is the one before with probability 0.9, else any: strongly
    dependent pixels."""
    D, L = spec.dimensions, spec.levels
    fresh = noise.uniform(D) >= 0.9
    fresh[:, 0] = True
    last_fresh = torch.where(fresh, torch.arange(D), 0).cummax(1).values
    k = noise.integers(L, D).gather(1, last_fresh)
    log_same, log_other = math.log(0.9 + 0.1 / L), math.log(0.1 / L)
    steps = torch.where(k[:, 1:] == k[:, :-1], log_same, log_other).sum(1)
    return from_levels(k.view(-1, *spec.shape), L), steps - math.log(L)


def _check_below_entropy(model: Any, law: Law, stage: str) -> None:
    n = 32
    D = model.spec.dimensions
    noise = Noise.keyed(SEED, 4, range(n))
    x, truth = law(model.spec, noise)
    with torch.no_grad():
        result = likelihood(model, x, random_conditions(model.spec, noise), noise)
    assert bool(result.nats.isfinite().all()), f"a likelihood is not finite {stage}"
    gain = result.nats.double() - truth.double()
    slack = 0.1 * math.log(2) * D if result.kind == "estimate" else 0.01
    assert float(gain.mean()) <= 3 * float(gain.std()) / math.sqrt(n) + slack, (
        f"{stage}, {law.__name__} are compressed below their entropy, by "
        f"{float(gain.mean()) / (D * math.log(2)):.3f} bits/dim; "
        "is a Jacobian, a dequantisation constant or a sign wrong?"
    )


def _two_pixels(case: Case) -> Case | None:
    """Return the case on images of two grey pixels and few levels; None if the network
    needs more."""
    levels = min(case.spec.levels, 4)
    hint = case.spec.hint and case.spec.hint.with_size(1, 2)
    spec = replace(case.spec.with_size(1, 2), channels=1, levels=levels, hint=hint)
    small = replace(case, spec=spec)
    try:
        _all_images(small.ready(), repeats=1)
    except (LimnerError, RuntimeError, ValueError):
        return None
    return small


@torch.no_grad()
def _all_images(model: Any, repeats: int) -> Likelihood:
    """Return the likelihood of each of the levels^2 images, `repeats` times in a row."""
    spec: ImageSpec = model.spec
    pixels = torch.cartesian_prod(*[torch.arange(spec.levels)] * 2).view(-1, 1, 1, 2)
    x = from_levels(pixels.repeat_interleave(repeats, 0), spec.levels)
    c = random_conditions(spec, Noise.sampling(0, 1)).repeat(len(x))
    return likelihood(model, x, c, Noise.sampling(0, len(x)))


def _check_sum(model: Any, stage: str) -> None:
    nats, kind, _ = _all_images(model, repeats=1)
    if kind == "estimate":
        return
    if kind == "lower":  # a random bound
        repeats = 128
        nats = _all_images(model, repeats).nats.view(-1, repeats).mean(1)
    total = float(nats.exp().sum())
    message = f"{stage}, the probabilities of all {len(nats)} images sum to {total:.3f}"
    assert total <= (1.001 if kind == "exact" else 1.1), message
    assert total >= 0.999 or kind != "exact", f'{message}; a bound is Likelihood(nats, "lower")'
