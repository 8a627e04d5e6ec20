"""StyleGAN2: z is mapped to a style, which scales the weights of every convolution.

Karras, Laine, Aittala, Hellsten, Lehtinen, Aila (2019). Analyzing and improving the image quality
of StyleGAN. arXiv:1912.04958.

    critic       minimises  E softplus(-s(x)) + E softplus(s(G(z)))  +  gamma / 2  E |ds(x)/dx|^2
    generator    minimises  E softplus(-s(G(z)))  +  E (|J_w^T y| - a)^2

The second terms, R1 and the path length penalty, are "lazy": each has an update of its own every
k-th step, with k times the weight (section 3.1). J_w = dG(w)/dw, y is normal noise over pixels, and
a is the running mean of |J_w^T y|: steps of the same length in w should change all pictures by the
same amount (section 3.2). A player with an extra update every k steps needs Adam's constants
lr' = c lr and beta' = beta^c, c = k / (k + 1); `recipes/gans/stylegan2-emoji32.toml` has them.

Kept: configuration F, with style mixing and truncation as in StyleGAN (arXiv:1812.04948), and
adaptive augmentation (arXiv:2006.06676, see `limner.gans.augmentation`). Different: sizes are 4 to
7 pixels doubled k times, the same for height and width; classes and text; the mean of w for
truncation is computed with the averaged weights, also for each class; the code of a picture is
optimised along directions in which w varies (see `encode`), with pixel errors alone, so that no
other network is needed.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, Natural, NonNegative, Rate, Share
from limner.contract.registry import Paper, register
from limner.gans.adversarial_model import GAME_LOSS, score_both, variety
from limner.gans.augmentation import Augmentation
from limner.gans.losses import OBJECTIVES, game_formula, r1
from limner.gans.style_model import Other, StyleModel
from limner.gans.stylegan2_networks import Critic, Mapping, Styles, Synthesis, halvings

_PATH_DECAY = 0.01  # of the running mean of path lengths

_R1, _PATH = 16 / 17, 8 / 9  # k / (k + 1), Adam's constants for lazy updates
_DEFAULT_OPTIONS = {
    "optimizer": "adam",
    "lr": 2.5e-3,
    "betas": (0.0, 0.99),
    "batch": 16,
    "players": {
        "critic": {"lr": 2.5e-3 * _R1, "betas": (0.0, 0.99**_R1)},
        "generator": {"lr": 2.5e-3 * _PATH, "betas": (0.0, 0.99**_PATH)},
    },
}


@register(
    "stylegan2",
    family="gans",
    paper=Paper(
        "Analyzing and improving the image quality of StyleGAN",
        "Karras, Laine, Aittala, Hellsten, Lehtinen, Aila",
        2019,
        "1912.04958",
    ),
    tiny={
        "latent": 6,
        "style": 8,
        "depth": 2,
        "channels": 4,
        "r1_every": 2,
        "path_every": 2,
        "augment": 0.6,
    },
    train=_DEFAULT_OPTIONS,
)
class StyleGAN2(StyleModel):
    """StyleGAN2: a style scales every convolution, so that pictures can be mixed by their parts.

    Args:
        spec: specification of the images; each side 4 to 7 pixels, doubled k times.
        latent: dimension of z.
        style: dimension of w.
        depth: number of layers of the mapping network.
        channels: channels of the layers at full size, in both networks; doubled with each halving.
        most_channels: maximum number of channels of a layer.
        objective: losses of both players; "relativistic", with R2 in addition to R1, as in `r3gan`.
        gamma: weight of the R1 penalty; None for 0.0002 h w / 32, which suits batches of 32
            pictures.
        r1_every: steps from one R1 update to the next; 0 = never.
        path: weight of the path length penalty.
        path_every: steps from one path length update to the next; 0 = never.
        mixing: probability of style mixing: the finer layers' style then comes from another z.
        augment: target of r_t for adaptive augmentation, such as 0.6; 0 turns augmentation off.
        augment_images: number of pictures in which its probability can rise from 0 to 1.
        condition_dropout: probability of hiding label and text from both networks in training.

    Raises:
        LimnerError: adaptive augmentation with the relativistic game, where only differences of
            scores have a meaning.
    """

    path_length: Tensor

    def __init__(
        self,
        spec: ImageSpec,
        latent: Count = 512,
        style: Count = 512,
        depth: Count = 8,
        channels: Count = 64,
        most_channels: Count = 512,
        objective: Literal["non-saturating", "relativistic"] = "non-saturating",
        gamma: NonNegative | None = None,
        r1_every: Natural = 16,
        path: NonNegative = 2.0,
        path_every: Natural = 8,
        mixing: Share = 0.9,
        augment: Rate = 0.0,
        augment_images: Count = 500_000,
        condition_dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        self.objective = OBJECTIVES[objective]
        if augment and self.objective.paired:
            raise LimnerError(
                "adaptive augmentation uses the sign of scores, which has no meaning in the "
                "relativistic game; type model.augment=0"
            )
        if spec.labels:
            self.condition = "required"
        widths = [min(channels * 2**i, most_channels) for i in range(halvings(spec) + 1)]
        self.mapping = Mapping(spec, latent, style, depth)
        self.synthesis = Synthesis(spec, style, widths[::-1])
        self.critic = Critic(spec, widths)
        self.augmentation = Augmentation(augment, augment_images, every=4)
        self.latent, self.mixing, self.condition_dropout = latent, mixing, condition_dropout
        self.gamma = 2e-4 * spec.height * spec.width / 32 if gamma is None else gamma
        self.r1_every, self.path, self.path_every = r1_every, path, path_every
        self.register_buffer("path_length", torch.zeros(()))
        self.remember_styles(len(spec.labels), style)

    @property
    def style_layers(self) -> int:
        """Number of styles of a picture, from coarse to fine."""
        return self.synthesis.layer_count

    def paint_sizes(
        self, w: Styles, c: Condition, noise: Noise | None, other: Other | None = None
    ) -> Iterator[Images]:
        """Yield the picture at each size, see `StyleModel.paint_sizes`; c is part of the styles."""
        return self.synthesis.sizes(w, noise)

    def players(self) -> dict[str, nn.Module]:
        """Return the critic, which is first, and the generator."""
        return {"critic": self.critic, "generator": nn.ModuleList([self.mapping, self.synthesis])}

    def formula(self) -> list[str]:
        """Return the formulas of the game, and of the penalties of both players."""
        lines = game_formula(self.objective.critic, self.objective.generator)
        if self.r1_every:
            slopes = "(E |ds/dx|^2 + E |ds/dG|^2)" if self.objective.paired else "E |ds/dx|^2"
            lines.append(f"+ {self.gamma / 2:.3g} {slopes} for the critic")
        if self.path_every:
            lines.append(f"+ {self.path:g} E (|J_w^T y| - a)^2 for the generator")
        return lines

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the critic's turn, then the generator's, each followed by its penalty if due."""
        x, c = batch
        with torch.no_grad():
            fake = self.synthesis(self.mixed_styles(c, noise), noise)
        both = Noise(noise.bits(2).T.flatten())  # a stream for each real and each generated picture
        augmented_scores = partial(self.augmented_scores, noise=both, batches=2)
        on_real, on_fake = score_both(augmented_scores, x, fake, c)
        self.augmentation.update(on_real.detach(), step)
        loss = self.objective.critic(on_real, on_fake)
        logs = {GAME_LOSS: loss.detach(), "variety": variety(x, fake)}
        logs |= self.objective.opinions(on_real, on_fake)
        if self.augmentation.target:
            logs["augment"] = self.augmentation.p.clone()
        yield Turn(loss, of="critic", logs=logs)
        if self.r1_every and step % self.r1_every == 0:
            penalty = self.steepness(x, c, noise)
            if self.objective.paired:
                penalty = penalty + self.steepness(fake, c, noise)
            loss = self.r1_every * self.gamma / 2 * penalty
            yield Turn(loss, of="critic", logs={"r1": penalty.detach()})
        generated = self.synthesis(self.mixed_styles(c, noise), noise)
        reference = ()
        if self.objective.paired:
            with torch.no_grad():
                reference = (self.augmented_scores(x, c, noise).float(),)
        scores = self.augmented_scores(generated, c, noise).float()
        loss = self.objective.generator(scores, *reference)
        yield Turn(loss, of="generator", logs={"generator.game.loss": loss.detach()})
        if self.path_every and step % self.path_every == 0:
            lengths = self.batch_path_lengths(c, noise)
            self.path_length.lerp_(lengths.detach().mean(), _PATH_DECAY)
            loss = self.path_every * self.path * (lengths - self.path_length).square().mean()
            yield Turn(loss, of="generator", logs={"path_length": lengths.detach().mean()})

    def augmented_scores(
        self, x: Images, c: Condition, noise: Noise, batches: int = 1
    ) -> Float[Tensor, "b"]:
        """Return the critic's scores of augmented pictures, which consist of several batches."""
        return self.critic(self.augmentation(x, noise), c, batches)

    def steepness(self, x: Images, c: Condition, noise: Noise) -> Float[Tensor, ""]:
        """Return E |ds(x)/dx|^2 on some pictures, in full precision."""
        with torch.autocast(x.device.type, enabled=False):
            return r1(partial(self.augmented_scores, c=c, noise=noise), x)

    def batch_path_lengths(self, c: Condition, noise: Noise) -> Float[Tensor, "half"]:
        """Return |J_w^T y| for half of the batch, as in the paper, in full precision."""
        half = slice(0, (len(noise) + 1) // 2)
        c, noise = c.rows(half), noise.rows(half)
        with torch.autocast(noise.streams.device.type, enabled=False):
            w = self.mixed_styles(c, noise)
            return path_lengths(
                lambda w: self.synthesis(w, noise), w, noise.normal(*self.spec.shape)
            )

    def mixed_styles(self, c: Condition, noise: Noise) -> Styles:
        """Return styles for training: of one z, or of another one from a random layer on."""
        n, layers = len(noise), self.style_layers
        first, second = (self.mapping(noise.normal(self.latent), c) for _ in range(2))
        starts = torch.where(noise.uniform() < self.mixing, 1 + noise.integers(layers - 1), layers)
        mask = torch.arange(layers, device=starts.device) < starts[:, None]
        return torch.where(mask[:, :, None], first[:, None], second[:, None]).view(n, layers, -1)


def path_lengths(paint: Callable[[Styles], Images], w: Styles, y: Images) -> Float[Tensor, "b"]:
    """Return |J_w^T y| for each picture: the root of the mean over layers of the squared norm.

    Args:
        paint: function from styles to pictures, each from its own style.
        w: styles, with gradients.
        y: standard normal noise; divided by the root of the number of pixels, so that lengths do
            not depend on the size.
    """
    y = y / math.sqrt(y.shape[2] * y.shape[3])
    (slope,) = torch.autograd.grad((paint(w) * y).sum(), w, create_graph=True)
    return slope.square().sum(2).mean(1).sqrt()
