"""Prompt-to-prompt: the picture of a prompt, painted again with words changed.

Hertz, Mokady, Tenenbaum, Aberman, Pritch, Cohen-Or (2022). Prompt-to-prompt image editing with
cross-attention control. arXiv:2208.01626.

Both pictures are painted together, from the same noise. Let M be the attention of a place, S that
of the same place in the first picture:

    replace, refine   M_j <- sum_i S_i A_ij for tokens j that stand for tokens i, `cross` of the way
    re-weight         M_j <- gain_j M_j
    self-attention    M <- S, `own` of the way
    locally           x_hat <- that of the first picture, where its and the second one's attention
                      to the words that change is below `local` of the maximum (the paper's blend)

A given picture is not painted again but followed: with x_s = x + s eps and z, which begins as x,

    z <- x + k (z - x) + (1 - k) (D(x_s + z - x, after) - D(x_s, before)),   k = s' / s,

which leaves it exactly as it is if the prompts are the same, under any guidance and in any number
of steps; no noise has to be found that the picture comes from. Kulikov, Kleiner,
Huberman-Spiegelglas, Michaeli (2024). FlowEdit. arXiv:2412.08629; for straight paths there, and
here for every schedule, in x_t / alpha.

Kept: the three edits, the local blend. Different: attention is shared for a smaller part of the
walk than in the paper, whose 0.8 and 0.4 hold the old shape in walks of a dozen steps; the blend is
of x_hat and not of x_t, which is the same picture, for both walks have the same noise; one
alignment serves replacements and refinements of any length.
"""

import contextlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limner.contract.editing import Rewords
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images
from limner.contract.model import finished
from limner.contract.noise import Noise, Seeds
from limner.contract.rewording import Rewording
from limner.diffusion.sampling import Plan, Repaints
from limner.maths.denoisers import Denoiser, Estimate
from limner.maths.schedules import Schedule, Times
from limner.nn.attention import Attention, Weights

_WITHOUT_BLEND = 0.2  # of the walk, in which attention does not say yet where the words are


class PromptToPrompt(Repaints, Rewords):
    """A denoiser with cross-attention, whose pictures follow a change of their prompt."""

    def check_words(self, before: Condition, after: Condition) -> None:
        """Refuse prompts without words, and a network that looks at none.

        Raises:
            LimnerError: which of them it is.
        """
        super().check_words(before, after)
        if not any(layer.null is not None for layer in _layers(self)):
            raise LimnerError("this model looks at no words: its network has no cross-attention")

    @finished
    def reworded(
        self,
        change: Rewording,
        image: Images | None,
        strength: float,
        n: int,
        c: Condition,
        *,
        noise: Noise,
        preview: bool,
        **options: Any,
    ) -> Iterator[Images]:
        """What `reword` yields, of checked arguments: `Rewords`."""
        plan = self.plan(**options)
        steps = len(plan.times) - 1
        times = (
            plan.times if image is None else plan.times[steps - max(1, round(strength * steps)) :]
        )
        plan = Plan(plan.sampler, _SharingDenoiser(plan.D, self, change, times, n // 2), times)
        if image is not None:
            yield from follow_change(self, plan, image, c, noise, preview)
            return
        for state in plan.walked(self.first(noise), c, noise, preview):
            yield self.to_image(state)

    def reconstruct_for_edit(self, image: Images, seed: Seeds = 0) -> Images:
        """The pictures themselves, or what an autoencoder makes of them: `Rewords`."""
        return reconstruct_for_edit(self, image, seed)


@torch.no_grad()
def reconstruct_for_edit(model: Repaints, image: Images, seed: Seeds = 0) -> Images:
    """There and back to the space where a model denoises: `Rewords.reconstruct_for_edit`."""
    image = image.to(model.device)
    noise = Noise.sampling(seed, len(image), str(model.device))
    return model.to_image(model.to_latent(image, None, noise)[0]).float().clamp(-1, 1)


def follow_change(
    model: Repaints, plan: Plan, image: Images, c: Condition, noise: Noise, preview: bool
) -> Iterator[Images]:
    """Yield given pictures and what becomes of them as their condition changes, "2 n c h w".

    Args:
        model: whose plan it is.
        plan: with the denoiser of both, and the times to visit.
        image: the pictures, which the first half of the conditions describes; or one for all.
        c: n conditions before, and n after.
        noise: 2 n streams, of which the halves are equal.
        preview: whether frames on the way are wanted.
    """
    n = len(noise) // 2
    image = image.repeat(n // len(image), 1, 1, 1)
    x, _ = model.to_latent(image, None, noise.rows(slice(0, n)))
    for both in _followed(plan.D, x, plan.times, c, noise, preview):
        yield model.to_image(both)


def _followed(
    D: Denoiser, x: Images, times: Times, c: Condition, noise: Noise, preview: bool
) -> Iterator[Images]:
    """Given pictures, and what becomes of them."""
    z, both = x, torch.cat([x, x])
    for t, s in pairwise(times):
        (alpha, sigma), (alpha_s, sigma_s) = (map(float, D.schedule(each)) for each in (t, s))
        source = alpha * x + sigma * noise.normal(*x.shape[1:])[: len(x)]
        both = torch.cat([source, source + alpha * (z - x)])
        told, asked = D(both, t, c).x_hat.chunk(2)
        k = sigma_s * alpha / (alpha_s * sigma)
        z = x + k * (z - x) + (1 - k) * (asked - told)
        both = torch.cat([x, z])
        if preview:
            yield both
    yield both


class SharedAttention:
    """Pictures of which the second ones look as the first ones do.

    Args:
        change: what the second ones share.
        n: how many first pictures there are.
    """

    def __init__(self, change: Rewording, n: int) -> None:
        self.change, self.n = change, n
        self.passed = 0.0
        self.looks: list[Float[Tensor, "b q"]] = []
        self.seen: Float[Tensor, "b 1 h w"] | None = None

    def go_on(self, passed: float) -> None:
        """Begin an evaluation of the network.

        Args:
            passed: the share of the walk that lies behind.
        """
        self.passed, self.looks = passed, []

    def own(self, site: str, weights: Weights) -> Weights:
        """Self-attention: a hook, of first pictures, second ones, and any others."""
        if self.passed >= self.change.own:
            return weights
        first, second = slice(0, self.n), slice(self.n, 2 * self.n)
        weights = weights.clone()
        weights[second] = weights[first]
        return weights

    def cross(self, site: str, weights: Weights) -> Weights:
        """Cross-attention, whose first key is nothing: a hook as `own`."""
        first, second = weights[: self.n], weights[self.n : 2 * self.n]
        change, source = self.change, self.change.alignment.source.to(weights)
        if self.passed < change.cross:
            known = source.sum(0).clamp(max=1)
            taken = first[..., 1:] @ source + second[..., 1:] * (1 - known)
            second = torch.cat([first[..., :1], taken], -1)
        gains = F.pad(change.gains.to(weights), (1, 0), value=1.0)
        second = second * gains
        if change.local:
            words = (
                first[..., 1:][..., change.alignment.left],
                second[..., 1:][..., change.alignment.new],
            )
            self.looks.append(torch.cat([part.float().sum(-1).mean(1) for part in words]))
        return torch.cat([first, second, weights[2 * self.n :]])

    def blended(self, x: Images) -> Images:
        """The second pictures, which are the first ones where nobody looks at what changes."""
        if not self.change.local:
            return x
        height, width = x.shape[-2:]
        total = torch.zeros((), device=x.device)
        for looks in self.looks:
            shrunk = round((height * width / looks.shape[1]) ** 0.5)
            places = looks.unflatten(1, (1, height // shrunk, width // shrunk))
            total = total + F.interpolate(places, (height, width), mode="bilinear")
        self.seen = total if self.seen is None else self.seen + total
        if self.passed < _WITHOUT_BLEND:
            return x
        first, second = x.chunk(2)
        return torch.cat([first, torch.where(self.changing(), second, first)])

    def changing(self) -> Bool[Tensor, "b 1 h w"]:
        """Where first or second pictures look at words that change."""
        assert self.seen is not None
        near = F.max_pool2d(self.seen, 3, 1, 1)
        most = near.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
        first, second = (near > self.change.local * most).chunk(2)
        return first | second


class _SharingDenoiser(SharedAttention):
    """A denoiser of two batches of pictures, the second of which looks as the first does.

    Args:
        denoiser: the one of both; half of its rows, or of each half where it is guided, are of the
            first pictures.
        network: which has the attention.
        change: what the second ones share.
        times: of the walk.
        n: how many first pictures there are.
    """

    def __init__(
        self, denoiser: Denoiser, network: nn.Module, change: Rewording, times: Times, n: int
    ) -> None:
        super().__init__(change, n)
        self.denoiser, self.times = denoiser, times
        self.layers = [*_layers(network)]

    @property
    def schedule(self) -> Schedule:
        """That of the denoiser."""
        return self.denoiser.schedule

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """The estimate for both batches."""
        self.go_on(float((self.times > t).sum()) / max(len(self.times) - 1, 1))
        with self._hooked():
            x_hat, variance = self.denoiser(x_t, t, c)
        return Estimate(self.blended(x_hat), variance)

    @contextlib.contextmanager
    def _hooked(self) -> Iterator[None]:
        before = [layer.edit for layer in self.layers]
        for layer in self.layers:
            layer.edit = self.cross if layer.null is not None else self.own
        try:
            yield
        finally:
            for layer, edit in zip(self.layers, before):
                layer.edit = edit


def _layers(network: nn.Module) -> Iterator[Attention]:
    """The attention of a network to pictures and words, but not that of words among themselves."""
    for layer in network.modules():
        if isinstance(layer, Attention) and not layer.site.startswith("text"):
            yield layer
