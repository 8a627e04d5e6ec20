"""GigaGAN: text-to-image generation in one pass, with kernels selected for each picture.

Kang, Zhu, Zhang, Park, Shechtman, Paris, Park (2023). Scaling up GANs for text-to-image synthesis.
arXiv:2303.05511.

    generator    z, caption -> w -> pictures x_i at all sizes, with kernels selected by w
    critic       minimises  E softplus(-s(x, c)) + E softplus(s(G(z, c), c))
                            + m (E softplus(s(x, c')) + E softplus(s(G(z, c), c'))) + R1
    generator    minimises  E softplus(-s(G(z, c), c)) + k E -log p(c | G(z, c))

s are the scores of a multi-scale critic (see `limner.gans.multi_scale_critic`), and c' is the
caption of another picture. The last term is contrastive: p compares a generated picture with all
captions of the batch, using a frozen judge of pictures and texts that was trained before. It is off
unless a judge is given, as in train.init.judge="emoji-judge". The generator learns to satisfy this
judge, so the same judge or extractor must not be used to evaluate the model.

Kept: banks of kernels, attention by distances to the picture and to w, cross-attention to words,
the caption's vector in w, pictures of all scales as the critic's input and scores at all sizes, no
spectral norm, equalised rates in attention and text layers. Different: captions are encoded by
learned layers on word vectors, not on CLIP's; a caption's vector is a mean over words; two layers
of psi, not four; the mean of all scores' losses, not their sum; no weight decay of attention; no
style mixing and no path length penalty; truncation with psi moves styles to the mean style of the
prompt. Left out: the vision-aided loss. Its critic is based on a network trained on photographs,
which would have to be downloaded, and such networks also compute evaluation scores.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.evaluation_mode import evaluation_mode
from limner.contract.image import Batch, Condition, Images, ImageSpec, one_for_each
from limner.contract.model import Learner, Turn
from limner.contract.noise import Noise, Purpose
from limner.contract.options import Count, Natural, NonNegative, Share, Widths
from limner.contract.registry import Paper, register
from limner.gans.adversarial_model import GAME_LOSS, variety
from limner.gans.gigagan_networks import Synthesis, WordVectors
from limner.gans.losses import discriminate, game_formula, mean_probabilities, non_saturating
from limner.gans.modulation import equalise
from limner.gans.multi_scale_critic import (
    MultiScaleCritic,
    Pyramid,
    critic_loss,
    mean_loss,
    mean_score,
    penalty,
    picture_scales,
)
from limner.gans.style_model import Other, StyleModel
from limner.gans.stylegan2_networks import Mapping, Styles, halvings
from limner.nn.condition import Signal

PAPER = Paper(
    "Scaling up GANs for text-to-image synthesis",
    "Kang, Zhu, Zhang, Park, Shechtman, Paris, Park",
    2023,
    "2303.05511",
)
_MEAN_SAMPLES = 64  # styles for the mean style of a prompt
_COSINE_SCALE = 1 / 0.07  # scale of cosines, CLIP's initial value
_LAZY_FACTOR = 16 / 17  # k / (k + 1), for Adam's constants with lazy regularisation
DEFAULT_OPTIONS = {
    "optimizer": "adam",
    "lr": 2.5e-3,
    "betas": (0.0, 0.99),
    "batch": 16,
    "players": {"critic": {"lr": 2.5e-3 * _LAZY_FACTOR, "betas": (0.0, 0.99**_LAZY_FACTOR)}},
}
"""The paper's Adam; the critic's R1 updates are lazy."""


@runtime_checkable
class Compares(Protocol):
    """A judge of pictures and texts, such as a `dual-encoder`."""

    spec: ImageSpec

    def features(self, x: Images) -> Float[Tensor, "b d"]:
        """Return features of pictures of the size of `spec`."""
        ...

    def cosines(
        self, features: Float[Tensor, "b d"], text: Int[Tensor, "k l"]
    ) -> Float[Tensor, "b k"]:
        """Return the cosine of each picture with each text."""
        ...


@register(
    "gigagan",
    family="gans",
    paper=PAPER,
    tiny={
        "latent": 6,
        "style": 8,
        "depth": 2,
        "channels": 4,
        "kernels": (2, 1),
        "r1_every": 2,
    },
    train=DEFAULT_OPTIONS,
)
class GigaGAN(StyleModel):
    """GigaGAN: kernels selected by the style, attention to words, and a critic at every scale.

    Args:
        spec: specification of the images; each side 4 to 7 pixels, doubled k times.
        latent: dimension of z, and of the caption's vector.
        style: dimension of w.
        depth: number of layers of the mapping network.
        channels: channels of the layers at full size, in both networks; doubled with each halving.
        most_channels: maximum number of channels of a layer.
        kernels: kernels in the banks of each size, smallest first; further sizes have one.
        attention: largest longer side, in pixels, with self-attention and attention to words.
        scales: number of sizes of a picture that the critic takes, largest first.
        gamma: weight of the R1 penalty at full size, a quarter of it with each halving; None for
            0.0002 h w / 32, which suits batches of 32 pictures.
        r1_every: steps from one R1 update to the next; 0 = never.
        matching: m, the weight of the loss on pictures with captions of other pictures.
        judge: judge of pictures and texts for the contrastive loss, as in
            train.init.judge="emoji-judge"; do not evaluate the model with the same judge.
        contrast: k, the weight of the contrastive loss.
        condition_dropout: probability of hiding label and text from both networks in training.
    """

    critic: MultiScaleCritic

    def __init__(
        self,
        spec: ImageSpec,
        latent: Count = 128,
        style: Count = 512,
        depth: Count = 4,
        channels: Count = 64,
        most_channels: Count = 512,
        kernels: Widths = (4, 4, 2),
        attention: Natural = 16,
        scales: Count = 5,
        gamma: NonNegative | None = None,
        r1_every: Natural = 16,
        matching: NonNegative = 1.0,
        judge: Learner | None = None,
        contrast: NonNegative = 0.5,
        condition_dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        if judge is not None:
            _check_judge(judge, spec)
        if spec.labels:
            self.condition = "required"
        widths = [min(channels * 2**i, most_channels) for i in range(halvings(spec) + 1)]
        self.mapping = Mapping(spec, latent, style, depth)
        equalise(self.mapping.conditioner)
        self.synthesis = Synthesis(
            spec, style, widths[::-1], kernels, attention, self.mapping.conditioner.token_dim
        )
        self.critic = MultiScaleCritic(spec, widths, scales, attention, latent)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.judge, self.contrast = judge, contrast
        self.latent, self.matching, self.condition_dropout = latent, matching, condition_dropout
        self.gamma = 2e-4 * spec.height * spec.width / 32 if gamma is None else gamma
        self.r1_every = r1_every
        self.remember_styles(len(spec.labels), style)

    @property
    def style_layers(self) -> int:
        """Number of styles of a picture, from coarse to fine."""
        return self.synthesis.layer_count

    def players(self) -> dict[str, nn.Module]:
        """Return the critic, which is first, and the generator."""
        return {"critic": self.critic, "generator": nn.ModuleList([self.mapping, self.synthesis])}

    def formula(self) -> list[str]:
        """Return the formulas of the game, and of the critic's other losses."""
        lines = game_formula(discriminate, non_saturating)
        if self.spec.text or self.spec.labels:
            lines.append(f"+ {self.matching:g} E softplus(s(x, c')), c' of another picture")
        if self.r1_every:
            lines.append(f"+ {self.gamma / 2:.3g} E |ds/dx|^2 for the critic, at each scale")
        return lines

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the critic's turn, its penalty if due, then the generator's turn."""
        x, c = batch
        real = picture_scales(x, self.critic.scales)
        with torch.no_grad():
            fake = self.scales(c, noise)
        loss, mismatch, on_real, on_fake = critic_loss(self.critic, real, fake, c, self.matching)
        logs = {GAME_LOSS: loss.detach(), "matching": mismatch.detach()}
        logs |= mean_probabilities(mean_score(on_real), mean_score(on_fake)) | {
            "variety": variety(x, fake[0])
        }
        yield Turn(loss + self.matching * mismatch, of="critic", logs=logs)
        if self.r1_every and step % self.r1_every == 0:
            r1 = penalty(self.critic, real, c, self.gamma, noise)
            yield Turn(self.r1_every * r1, of="critic", logs={"r1": r1.detach()})
        fake = self.scales(c, noise)
        loss = mean_loss(non_saturating, self.critic(fake, c))
        logs = {"generator.game.loss": loss.detach()}
        if self.judge is not None and c.text is not None:
            disagreement = self.disagreement(fake[0], c.text)
            loss, logs["contrast"] = loss + self.contrast * disagreement, disagreement.detach()
        yield Turn(loss, of="generator", logs=logs)

    def scales(self, c: Condition, noise: Noise) -> Pyramid:
        """Return generated pictures at each size that the critic takes, largest first."""
        signal = self.mapping.conditioner(c, len(noise))
        w = self.mapping.style_of(noise.normal(self.latent), signal.vector)
        w = w[:, None].expand(-1, self.style_layers, -1)
        words = [_words(signal)] * (self.style_layers // 2)
        return [*self.synthesis.sizes(w, words, noise)][: -self.critic.scales - 1 : -1]

    def disagreement(self, x: Images, text: Int[Tensor, "b l"]) -> Float[Tensor, ""]:
        """Return -log p(c | x): the judge's loss in classifying each picture's caption in a batch.

        If captions are equal, all of them are right answers. Pictures without a caption are left
        out; if none has a caption, the loss is 0.
        """
        judge, has_text = self.judge, text.any(1)
        assert isinstance(judge, Compares)
        if not has_text.any():
            return x.new_zeros(())
        x, text = x[has_text], text[has_text]
        if x.shape[2:] != judge.spec.shape[1:]:
            x = F.interpolate(x, judge.spec.shape[1:], mode="bilinear", antialias=True)
        cosines = judge.cosines(judge.features(x.float()), text)
        is_equal = (text[:, None] == text).all(-1).to(cosines)
        return F.cross_entropy(_COSINE_SCALE * cosines, is_equal / is_equal.sum(1, keepdim=True))

    def paint_sizes(
        self, w: Styles, c: Condition, noise: Noise | None, other: Other | None = None
    ) -> Iterator[Images]:
        """Yield the picture at each size; a size's words come from the source of its style."""
        n, sizes = len(w), self.style_layers // 2
        words = [_words(self.mapping.conditioner(c, n))] * sizes
        if other is not None:
            other_words = _words(self.mapping.conditioner(other.c, n))
            other_layers = range(self.style_layers)[other.layers]
            words = [
                other_words if 2 * i in other_layers else own_words
                for i, own_words in enumerate(words)
            ]
        return self.synthesis.sizes(w, words, noise)

    @torch.no_grad()
    def centre(self, c: Condition, n: int) -> Float[Tensor, "b style"]:
        """Return the mean style of each row's text; without texts, of its class or of all."""
        if c.text is None:
            return super().centre(c, n)
        noise = Noise.keyed(0, Purpose.CALIBRATION, range(_MEAN_SAMPLES), str(self.device))
        z = noise.normal(self.latent).to(self.w_mean)
        vector = self.mapping.conditioner(c, n).vector
        assert vector is not None
        w = self.mapping.style_of(z.repeat(n, 1), vector.repeat_interleave(_MEAN_SAMPLES, 0))
        return w.unflatten(0, (n, _MEAN_SAMPLES)).mean(1)

    @torch.no_grad()
    def prompt_path(
        self, a: Condition, b: Condition, steps: int = 8, *, seed: int = 0
    ) -> Float[Tensor, "steps c h w"]:
        """Return pictures of one seed between two prompts, by blending their vectors and words.

        Args:
            a, b: the prompts, one row each.
            steps: number of pictures, both ends included.
            seed: seed of all pictures.

        Raises:
            LimnerError: a text is missing, or a condition does not fit.
        """
        if a.text is None or b.text is None:
            raise LimnerError("a path between prompts needs two texts; give both conditions one")
        length = max(a.text.shape[1], b.text.shape[1])
        for c in (a, b):
            self.check_condition(c)
        ends = [one_for_each(steps, c.to(self.device)).pad(length) for c in (a, b)]
        noise = Noise.sampling([seed] * steps, steps, str(self.device))
        with evaluation_mode(self):
            first, second = (self.mapping.conditioner(c, steps) for c in ends)
            signal = _blend(first, second, torch.linspace(0, 1, steps, device=self.device))
            w = self.mapping.style_of(noise.normal(self.latent), signal.vector)
            w = w[:, None].expand(-1, self.style_layers, -1)
            x = self.synthesis(w, [_words(signal)] * (self.style_layers // 2), noise)
        return x.float().clamp(-1, 1)


def _words(signal: Signal) -> WordVectors | None:
    if signal.tokens is None or signal.mask is None:
        return None
    return WordVectors(signal.tokens, signal.mask)


def _blend(first: Signal, second: Signal, amount: Float[Tensor, "n"]) -> Signal:
    """Return (1 - t) one + t other for each t; words of one text only fade in or out."""
    assert first.vector is not None and second.vector is not None
    assert first.tokens is not None and second.tokens is not None
    assert first.mask is not None and second.mask is not None
    t = amount[:, None]
    counts = [
        mask.float() if mask.dtype == torch.bool else mask.exp()
        for mask in (first.mask, second.mask)
    ]
    return Signal(
        torch.lerp(first.vector, second.vector, t),
        torch.lerp(first.tokens, second.tokens, t[:, :, None]),
        torch.lerp(counts[0], counts[1], t).log(),
    )


def _check_judge(judge: Learner, spec: ImageSpec) -> None:
    """Check that a judge fits these data.

    Raises:
        LimnerError: it does not compare pictures with texts, or takes other texts or pictures.
    """
    if not isinstance(judge, Compares):
        raise LimnerError(
            f"{judge.name} models do not compare pictures with texts; give a dual-encoder, as in "
            "train.init.judge=emoji-judge"
        )
    judge_text, text = judge.spec.text, spec.text
    if (
        not judge_text
        or not text
        or replace(judge_text, length=text.length) != text
        or text.length > judge_text.length
    ):
        raise LimnerError(
            "the judge reads captions, and these data have none that it can read; "
            "give data.text=true, or leave train.init.judge out"
        )
    if judge.spec.channels != spec.channels:
        raise LimnerError("the judge sees pictures with other channels; give data.channels")
