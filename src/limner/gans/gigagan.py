"""GigaGAN: pictures from prompts at a stroke, by kernels that are chosen for each picture.

Kang, Zhu, Zhang, Park, Shechtman, Paris, Park (2023). Scaling up GANs for text-to-image synthesis.
arXiv:2303.05511.

    generator    z, caption -> w -> pictures x_i at all sizes, by kernels that w chooses
    critic       lowers  E softplus(-s(x, c)) + E softplus(s(G(z, c), c))
                         + m (E softplus(s(x, c')) + E softplus(s(G(z, c), c'))) + R1
    generator    lowers  E softplus(-s(G(z, c), c)) + k E -log p(c | G(z, c))

s are the scores of a multi-scale critic (see `limner.gans.multi_scale_critic`), and c' is the
caption of another picture. The last term is contrastive: p compares a painting with all captions of
the batch, by a judge of pictures and texts that is trained before and stays as it is. It is off
unless one is named, train.init.judge="emoji-judge". A generator learns to please it, so it must not
be the judge, or the extractor, by which the model is scored afterwards.

Kept: banks of kernels, attention by distances with w beside the picture, cross-attention to words,
the caption's vector in w, pictures of all scales to the critic and scores of it at all sizes, no
spectral norm, equalised rates in attention and text layers. Different: captions are read by learned
layers on word vectors, not on CLIP's; a caption's vector is a mean over words; two layers of psi,
where the paper has four; the mean of all scores' losses, where it has a sum; no weight decay of
attention; no style mixing and no path lengths in training; psi of truncation draws to the mean
style of the prompt. Left out: the vision-aided loss, whose critic stands on a network trained on
photographs. It would have to be downloaded, and scores are made with such networks.
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
from limner.gans.adversarial_model import GAME, variety
from limner.gans.gigagan_networks import Synthesis, Words
from limner.gans.losses import beliefs, discriminate, game, non_saturating
from limner.gans.modulation import equalise
from limner.gans.multi_scale_critic import (
    MultiScaleCritic,
    Pyramid,
    critic_loss,
    mean_loss,
    overall,
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
_MEAN_OF = 64  # styles for the mean style of a prompt
_SHARPNESS = 1 / 0.07  # of cosines, CLIP's first one
_R1 = 16 / 17  # k / (k + 1), by which lazy regularisation every k steps shrinks Adam
USUAL = {
    "optimizer": "adam",
    "lr": 2.5e-3,
    "betas": (0.0, 0.99),
    "batch": 16,
    "players": {"critic": {"lr": 2.5e-3 * _R1, "betas": (0.0, 0.99**_R1)}},
}
"""The paper's Adam; its critic's moves with R1 are lazy."""


@runtime_checkable
class Compares(Protocol):
    """A judge of pictures and texts, such as a `dual-encoder`."""

    spec: ImageSpec

    def features(self, x: Images) -> Float[Tensor, "b d"]:
        """What is seen in pictures of the size of `spec`."""
        ...

    def cosines(
        self, features: Float[Tensor, "b d"], text: Int[Tensor, "k l"]
    ) -> Float[Tensor, "b k"]:
        """How well each picture shows what each text says."""
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
    train=USUAL,
)
class GigaGAN(StyleModel):
    """GigaGAN: kernels chosen by the style, attention to words, and a critic at every scale.

    Args:
        spec: what the images are; each side 4 to 7 pixels, doubled k times.
        latent: how many numbers z has, and the caption's vector.
        style: how many numbers w has.
        depth: layers from z to w.
        channels: of the layers at full size, in both networks; twice as many with each halving.
        most_channels: but never more than these.
        kernels: in the banks of each size, from the smallest on; sizes beyond have one.
        attention: pixels of the longer side up to which a size attends to itself and to words.
        scales: how many sizes of a picture the critic sees, from the largest on.
        gamma: of the R1 penalty at full size, a quarter of it with each halving; None for
            0.0002 h w / 32, which suits batches of 32 pictures.
        r1_every: steps from one R1 move to the next; 0 = never.
        matching: m, the weight of pictures under captions of others.
        judge: of pictures and texts, for the contrastive loss, train.init.judge="emoji-judge"; it
            must not be the one that scores the model.
        contrast: k, the weight of that loss.
        condition_dropout: how often training hides label and text from both.
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
        """How many styles a picture takes, from coarse to fine."""
        return self.synthesis.layer_count

    def players(self) -> dict[str, nn.Module]:
        """The critic, which moves first, and the generator."""
        return {"critic": self.critic, "generator": nn.ModuleList([self.mapping, self.synthesis])}

    def formula(self) -> list[str]:
        """The game, and what the critic learns besides."""
        lines = game(discriminate, non_saturating)
        if self.spec.text or self.spec.labels:
            lines.append(f"+ {self.matching:g} E softplus(s(x, c')), c' of another picture")
        return [*lines, f"+ {self.gamma / 2:.3g} E |ds/dx|^2 for the critic, at each scale"]

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """The critic's move, its regularisation where that is due, then the generator's."""
        x, c = batch
        real = picture_scales(x, self.critic.scales)
        with torch.no_grad():
            fake = self.scales(c, noise)
        loss, mismatch, on_real, on_fake = critic_loss(self.critic, real, fake, c, self.matching)
        logs = {GAME: loss.detach(), "matching": mismatch.detach()}
        logs |= beliefs(overall(on_real), overall(on_fake)) | {"variety": variety(x, fake[0])}
        yield Turn(loss + self.matching * mismatch, of="critic", logs=logs)
        if self.r1_every and step % self.r1_every == 0:
            steep = penalty(self.critic, real, c, self.gamma, noise)
            yield Turn(self.r1_every * steep, of="critic", logs={"r1": steep.detach()})
        fake = self.scales(c, noise)
        loss = mean_loss(non_saturating, self.critic(fake, c))
        logs = {"generator.game.loss": loss.detach()}
        if self.judge is not None and c.text is not None:
            disagreement = self.disagreement(fake[0], c.text)
            loss, logs["contrast"] = loss + self.contrast * disagreement, disagreement.detach()
        yield Turn(loss, of="generator", logs=logs)

    def scales(self, c: Condition, noise: Noise) -> Pyramid:
        """Paintings at each size that the critic sees, from the largest on."""
        signal = self.mapping.conditioner(c, len(noise))
        w = self.mapping.style_of(noise.normal(self.latent), signal.vector)
        w = w[:, None].expand(-1, self.style_layers, -1)
        words = [_words(signal)] * (self.style_layers // 2)
        return [*self.synthesis.sizes(w, words, noise)][: -self.critic.scales - 1 : -1]

    def disagreement(self, x: Images, text: Int[Tensor, "b l"]) -> Float[Tensor, ""]:
        """-log p(c | x): how badly a judge finds each painting's caption among the batch's.

        Captions that are the same are all right answers, and paintings without one are left out;
        where none has one it is 0.
        """
        judge, told = self.judge, text.any(1)
        assert isinstance(judge, Compares)
        if not told.any():
            return x.new_zeros(())
        x, text = x[told], text[told]
        if x.shape[2:] != judge.spec.shape[1:]:
            x = F.interpolate(x, judge.spec.shape[1:], mode="bilinear", antialias=True)
        cosines = judge.cosines(judge.features(x.float()), text)
        same = (text[:, None] == text).all(-1).to(cosines)
        return F.cross_entropy(_SHARPNESS * cosines, same / same.sum(1, keepdim=True))

    def paint_sizes(
        self, w: Styles, c: Condition, noise: Noise | None, other: Other | None = None
    ) -> Iterator[Images]:
        """See `StyleModel.paint_sizes`: a size is told the words of where its style comes from."""
        n, sizes = len(w), self.style_layers // 2
        words = [_words(self.mapping.conditioner(c, n))] * sizes
        if other is not None:
            theirs = _words(self.mapping.conditioner(other.c, n))
            taken = range(self.style_layers)[other.layers]
            words = [theirs if 2 * i in taken else own for i, own in enumerate(words)]
        return self.synthesis.sizes(w, words, noise)

    @torch.no_grad()
    def centre(self, c: Condition, n: int) -> Float[Tensor, "b style"]:
        """The mean style of each row's text; without texts, of its class or of all."""
        if c.text is None:
            return super().centre(c, n)
        noise = Noise.keyed(0, Purpose.CALIBRATION, range(_MEAN_OF), str(self.device))
        z = noise.normal(self.latent).to(self.w_mean)
        vector = self.mapping.conditioner(c, n).vector
        assert vector is not None
        w = self.mapping.style_of(z.repeat(n, 1), vector.repeat_interleave(_MEAN_OF, 0))
        return w.unflatten(0, (n, _MEAN_OF)).mean(1)

    @torch.no_grad()
    def prompt_path(
        self, a: Condition, b: Condition, steps: int = 8, *, seed: int = 0
    ) -> Float[Tensor, "steps c h w"]:
        """Pictures of one seed between two prompts: their vectors and words are blended.

        Args:
            a, b: the prompts, one row each.
            steps: pictures, both ends included.
            seed: of all of them.

        Raises:
            LimnerError: no texts, or a condition that does not fit.
        """
        if a.text is None or b.text is None:
            raise LimnerError("a path between prompts needs two texts; give both conditions one")
        length = max(a.text.shape[1], b.text.shape[1])
        for c in (a, b):
            self.check_condition(c)
        ends = [one_for_each(steps, c.to(self.device)).padded(length) for c in (a, b)]
        noise = Noise.sampling([seed] * steps, steps, str(self.device))
        with evaluation_mode(self):
            one, other = (self.mapping.conditioner(c, steps) for c in ends)
            signal = _blend(one, other, torch.linspace(0, 1, steps, device=self.device))
            w = self.mapping.style_of(noise.normal(self.latent), signal.vector)
            w = w[:, None].expand(-1, self.style_layers, -1)
            x = self.synthesis(w, [_words(signal)] * (self.style_layers // 2), noise)
        return x.float().clamp(-1, 1)


def _words(signal: Signal) -> Words | None:
    if signal.tokens is None or signal.mask is None:
        return None
    return Words(signal.tokens, signal.mask)


def _blend(one: Signal, other: Signal, amount: Float[Tensor, "n"]) -> Signal:
    """(1 - t) one + t other, for each t; a word of one text alone counts less and less."""
    assert one.vector is not None and other.vector is not None
    assert one.tokens is not None and other.tokens is not None
    assert one.mask is not None and other.mask is not None
    t = amount[:, None]
    counts = [
        mask.float() if mask.dtype == torch.bool else mask.exp() for mask in (one.mask, other.mask)
    ]
    return Signal(
        torch.lerp(one.vector, other.vector, t),
        torch.lerp(one.tokens, other.tokens, t[:, :, None]),
        torch.lerp(counts[0], counts[1], t).log(),
    )


def _check_judge(judge: Learner, spec: ImageSpec) -> None:
    """Whether a learner can judge paintings of these data.

    Raises:
        LimnerError: it compares no pictures with texts, or others.
    """
    if not isinstance(judge, Compares):
        raise LimnerError(
            f"{judge.name} models compare no pictures with texts; give a dual-encoder, as in "
            "train.init.judge=emoji-judge"
        )
    read, said = judge.spec.text, spec.text
    if (
        not read
        or not said
        or replace(read, length=said.length) != said
        or said.length > read.length
    ):
        raise LimnerError(
            "the judge reads captions, and these data have none of its kind; "
            "give data.text=true, or leave train.init.judge out"
        )
    if judge.spec.channels != spec.channels:
        raise LimnerError("the judge sees pictures with other channels; give data.channels")
