"""Prompt-to-prompt: paint the picture of a prompt again with some words changed.

Hertz, Mokady, Tenenbaum, Aberman, Pritch, Cohen-Or (2022). Prompt-to-prompt image editing with
cross-attention control. arXiv:2208.01626.

Both pictures are painted together, from the same noise. Let M be the attention of a place, and S
the attention of the same place in the first picture:

    replace, refine   M_j <- sum_i S_i A_ij for tokens j that stand for tokens i, in the first
                      `cross_steps` share of the steps
    re-weight         M_j <- gain_j M_j
    self-attention    M <- S, in the first `self_steps` share of the steps
    locally           x_hat <- that of the first picture, where the attention of both pictures to
                      the changed words is below `local` of the maximum (the paper's blend)

A given picture is not painted again but followed: with x_s = x + s eps and z, which starts as x,

    z <- x + k (z - x) + (1 - k) (D(x_s + z - x, after) - D(x_s, before)),   k = s' / s.

This leaves it exactly unchanged if the prompts are the same, with any guidance and any number of
steps; it needs no inversion of the picture to noise. Kulikov, Kleiner, Huberman-Spiegelglas,
Michaeli (2024). FlowEdit. arXiv:2412.08629; for straight paths there, and here for every schedule,
in x_t / alpha.

Kept: the three edits, the local blend. Different: attention is shared in fewer of the steps than in
the paper, whose shares of 0.8 and 0.4 keep the old shape if there are a dozen steps; the blend is
in x_hat and not in x_t, which gives the same picture, because both pictures have the same noise;
one alignment serves replacements and refinements of any length.
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
from limner.contract.model import finish_frames
from limner.contract.noise import Noise, Seeds
from limner.contract.rewording import Rewording
from limner.diffusion.sampling import Plan, Repaints
from limner.maths.denoisers import Denoiser, Estimate
from limner.maths.schedules import Schedule, Times
from limner.nn.attention import Attention, Weights

_UNBLENDED_SHARE = 0.2  # first share of the steps, in which attention does not locate words yet


class PromptToPrompt(Repaints, Rewords):
    """Denoiser with cross-attention whose pictures can follow a change of their prompt."""

    def check_words(self, before: Condition, after: Condition) -> None:
        """Refuse prompts without words, and a network without cross-attention.

        Raises:
            LimnerError: a prompt has no words, or the network has no cross-attention.
        """
        super().check_words(before, after)
        if not any(layer.null is not None for layer in _layers(self)):
            raise LimnerError("this model's network has no cross-attention to words; give another")

    @finish_frames
    def reword_frames(
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
        """Yield the frames of `reword`, for checked arguments: `Rewords`."""
        plan = self.plan(**options).last(1.0 if image is None else strength, options)
        plan = plan._replace(D=_SharingDenoiser(plan.D, self, change, plan.times, n // 2))
        if image is not None:
            yield from follow_change(self, plan, image, c, noise, preview)
            return
        for state in plan.trajectory(self.first(noise), c, noise, preview):
            yield self.to_image(state)

    def reconstruct_for_edit(self, image: Images, seed: Seeds = 0) -> Images:
        """Return the pictures themselves, or an autoencoder's reconstructions: `Rewords`."""
        return reconstruct_for_edit(self, image, seed)


@torch.no_grad()
def reconstruct_for_edit(model: Repaints, image: Images, seed: Seeds = 0) -> Images:
    """Map pictures to the space where a model denoises, and back: `Rewords`."""
    image = image.to(model.device)
    noise = Noise.sampling(seed, len(image), str(model.device))
    return model.to_image(model.to_latent(image, None, noise)[0]).float().clamp(-1, 1)


def follow_change(
    model: Repaints, plan: Plan, image: Images, c: Condition, noise: Noise, preview: bool
) -> Iterator[Images]:
    """Yield given pictures, and their changed versions under new conditions, "2 n c h w".

    Args:
        model: the model.
        plan: its plan, with the denoiser for both conditions and the times to visit.
        image: n pictures that match the first half of the conditions; or one for all.
        c: n conditions before, and n after.
        noise: 2 n random streams; both halves are equal.
        preview: whether to yield frames on the way.
    """
    n = len(noise) // 2
    image = image.repeat(n // len(image), 1, 1, 1)
    x, _ = model.to_latent(image, None, noise.rows(slice(0, n)))
    for pair in _latent_pairs(plan.D, x, plan.times, c, noise, preview):
        yield model.to_image(pair)


def _latent_pairs(
    D: Denoiser, x: Images, times: Times, c: Condition, noise: Noise, preview: bool
) -> Iterator[Images]:
    """Yield given pictures and their changed versions, in the space where the model denoises."""
    z, pair = x, torch.cat([x, x])
    for t, s in pairwise(times):
        (alpha, sigma), (alpha_s, sigma_s) = (map(float, D.schedule(time)) for time in (t, s))
        source = alpha * x + sigma * noise.normal(*x.shape[1:])[: len(x)]
        pair = torch.cat([source, source + alpha * (z - x)])
        before, after = D(pair, t, c).x_hat.chunk(2)
        k = sigma_s * alpha / (alpha_s * sigma)
        z = x + k * (z - x) + (1 - k) * (after - before)
        pair = torch.cat([x, z])
        if preview:
            yield pair
    yield pair


class SharedAttention:
    """Hooks that share the attention of first pictures with second ones.

    Args:
        change: settings of what the second pictures share.
        n: number of first pictures.
    """

    def __init__(self, change: Rewording, n: int) -> None:
        self.change, self.n = change, n
        self.progress = 0.0
        self.word_attention: list[Float[Tensor, "b q"]] = []
        self.attention_sum: Float[Tensor, "b 1 h w"] | None = None

    def start_evaluation(self, progress: float) -> None:
        """Start an evaluation of the network.

        Args:
            progress: share of the steps that are done.
        """
        self.progress, self.word_attention = progress, []

    def self_attention(self, site: str, weights: Weights) -> Weights:
        """Hook of self-attention; the rows are first pictures, second ones, and any others."""
        if self.progress >= self.change.self_steps:
            return weights
        first, second = slice(0, self.n), slice(self.n, 2 * self.n)
        weights = weights.clone()
        weights[second] = weights[first]
        return weights

    def cross_attention(self, site: str, weights: Weights) -> Weights:
        """Hook of cross-attention, whose first key stands for no token, with rows as above."""
        first, second = weights[: self.n], weights[self.n : 2 * self.n]
        change, source = self.change, self.change.alignment.source.to(weights)
        if self.progress < change.cross_steps:
            has_source = source.sum(0).clamp(max=1)
            shared = first[..., 1:] @ source + second[..., 1:] * (1 - has_source)
            second = torch.cat([first[..., :1], shared], -1)
        gains = F.pad(change.gains.to(weights), (1, 0), value=1.0)
        second = second * gains
        if change.local:
            words = (
                first[..., 1:][..., change.alignment.removed],
                second[..., 1:][..., change.alignment.new],
            )
            self.word_attention.append(torch.cat([part.float().sum(-1).mean(1) for part in words]))
        return torch.cat([first, second, weights[2 * self.n :]])

    def blend(self, x: Images) -> Images:
        """Return the pictures, with second ones equal to first ones outside of `changing`."""
        if not self.change.local:
            return x
        height, width = x.shape[-2:]
        total = torch.zeros((), device=x.device)
        for weights in self.word_attention:
            factor = round((height * width / weights.shape[1]) ** 0.5)
            layer_maps = weights.unflatten(1, (1, height // factor, width // factor))
            total = total + F.interpolate(layer_maps, (height, width), mode="bilinear")
        self.attention_sum = total if self.attention_sum is None else self.attention_sum + total
        if self.progress < _UNBLENDED_SHARE:
            return x
        first, second = x.chunk(2)
        return torch.cat([first, torch.where(self.changing(), second, first)])

    def changing(self) -> Bool[Tensor, "b 1 h w"]:
        """Return where first or second pictures attend to words that change."""
        assert self.attention_sum is not None
        attention = F.max_pool2d(self.attention_sum, 3, 1, 1)
        peak = attention.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
        first, second = (attention > self.change.local * peak).chunk(2)
        return first | second


class _SharingDenoiser(SharedAttention):
    """Denoiser of two batches of pictures, in which the second shares attention of the first.

    Args:
        denoiser: denoiser of both batches; the first half of its rows (with guidance, of each half)
            are first pictures.
        network: network with the attention layers.
        change: settings of what the second pictures share.
        times: times of the sampling plan.
        n: number of first pictures.
    """

    def __init__(
        self, denoiser: Denoiser, network: nn.Module, change: Rewording, times: Times, n: int
    ) -> None:
        super().__init__(change, n)
        self.denoiser, self.times = denoiser, times
        self.layers = [*_layers(network)]

    @property
    def schedule(self) -> Schedule:
        """Schedule of the denoiser."""
        return self.denoiser.schedule

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return the estimate for both batches."""
        self.start_evaluation(float((self.times > t).sum()) / max(len(self.times) - 1, 1))
        with self._attach_hooks():
            x_hat, variance = self.denoiser(x_t, t, c)
        return Estimate(self.blend(x_hat), variance)

    @contextlib.contextmanager
    def _attach_hooks(self) -> Iterator[None]:
        edits = [layer.edit for layer in self.layers]
        for layer in self.layers:
            layer.edit = self.cross_attention if layer.null is not None else self.self_attention
        try:
            yield
        finally:
            for layer, edit in zip(self.layers, edits):
                layer.edit = edit


def _layers(network: nn.Module) -> Iterator[Attention]:
    """Yield a network's attention layers, except those of its text encoder."""
    for layer in network.modules():
        if isinstance(layer, Attention) and not layer.site.startswith("text"):
            yield layer
