"""StyleGAN2: z becomes a style, which scales the weights of every convolution.

Karras, Laine, Aittala, Hellsten, Lehtinen, Aila (2019). Analyzing and improving the image quality
of StyleGAN. arXiv:1912.04958.

    critic       lowers  E softplus(-s(x)) + E softplus(s(G(z)))  +  gamma / 2  E |ds(x)/dx|^2
    generator    lowers  E softplus(-s(G(z)))  +  E (|J_w^T y| - a)^2

The second terms, R1 and the length of paths, are "lazy": a move of their own every k-th step, k
times as strong (section 3.1). J_w = dG(w)/dw, y is normal noise over pixels, and a is the mean of
|J_w^T y| so far: steps of one length in w shall change all pictures equally much (section 3.2). A
player with an extra move every k steps wants Adam with the constants lr' = c lr and
beta' = beta^c, c = k / (k + 1); `recipes/gans/stylegan2-emoji32.toml` has them.

Kept: configuration F, with style mixing and truncation as in StyleGAN (arXiv:1812.04948), and
adaptive augmentation (arXiv:2006.06676, see `limner.gans.augmentation`). Different: sizes are 4 to
7 pixels doubled k times, the same for height and width; classes and text; the mean of w, to which
truncation goes, is of the averaged weights and of each class; a picture's code is sought among
directions in which w varies (see `encode`), by pixels alone, for no other network is needed then.
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
from limner.gans.adversarial_model import GAME, score_both, variety
from limner.gans.augmentation import Augmentation
from limner.gans.losses import OBJECTIVES, game, r1
from limner.gans.style_model import Other, StyleModel
from limner.gans.stylegan2_networks import Critic, Mapping, Styles, Synthesis, halvings

_FORGETTING = 0.01  # of the mean length of paths

_R1, _PATH = 16 / 17, 8 / 9  # k / (k + 1), by which lazy regularisation every k steps shrinks Adam
_USUAL = {
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
    train=_USUAL,
)
class StyleGAN2(StyleModel):
    """StyleGAN2: a style scales every convolution, so that pictures can be mixed by their parts.

    Args:
        spec: what the images are; each side 4 to 7 pixels, doubled k times.
        latent: how many numbers z has.
        style: how many numbers w has.
        depth: layers from z to w.
        channels: of the layers at full size, in both networks; twice as many with each halving.
        most_channels: but never more than these.
        objective: the game; "relativistic", with R2 beside R1, is that of `r3gan`.
        gamma: of the R1 penalty; None for 0.0002 h w / 32, which suits batches of 32 pictures.
        r1_every: steps from one R1 move to the next; 0 = never.
        path: the weight of path lengths.
        path_every: steps from one such move to the next; 0 = never.
        mixing: how often training takes the finer layers' style from another z.
        augment: r_t, the share of real pictures that the critic is surer of than of others, that
            adaptive augmentation aims at, as 0.6; 0 augments nothing.
        augment_images: pictures in which its probability may go from 0 to 1.
        condition_dropout: how often training hides label and text from both.

    Raises:
        LimnerError: adaptive augmentation of the relativistic game, whose scores have no zero.
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
                "adaptive augmentation looks at the sign of scores, which says nothing in the "
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
        """How many styles a picture takes, from coarse to fine."""
        return self.synthesis.layer_count

    def paint_sizes(
        self, w: Styles, c: Condition, noise: Noise | None, other: Other | None = None
    ) -> Iterator[Images]:
        """See `StyleModel.paint_sizes`; the condition is in the styles alone."""
        return self.synthesis.sizes(w, noise)

    def players(self) -> dict[str, nn.Module]:
        """The critic, which moves first, and the generator."""
        return {"critic": self.critic, "generator": nn.ModuleList([self.mapping, self.synthesis])}

    def formula(self) -> list[str]:
        """The game, and the critic's penalty."""
        penalty = f"+ {self.gamma / 2:.3g} E |ds/dx|^2 for the critic"
        return [*game(self.objective.critic, self.objective.generator), penalty]

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """The critic's move, then the generator's, each with its regularisation where it is due."""
        x, c = batch
        with torch.no_grad():
            fake = self.synthesis(self.mixed_styles(c, noise), noise)
        own = Noise(noise.bits(2).T.flatten())  # a stream for each picture and each painting
        augmented_scores = partial(self.augmented_scores, noise=own, batches=2)
        on_real, on_fake = score_both(augmented_scores, x, fake, c)
        self.augmentation.notice(on_real.detach(), step)
        loss = self.objective.critic(on_real, on_fake)
        logs = {GAME: loss.detach(), "variety": variety(x, fake)}
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
        made = self.synthesis(self.mixed_styles(c, noise), noise)
        beside = ()
        if self.objective.paired:
            with torch.no_grad():
                beside = (self.augmented_scores(x, c, noise).float(),)
        loss = self.objective.generator(self.augmented_scores(made, c, noise).float(), *beside)
        yield Turn(loss, of="generator", logs={"generator.game.loss": loss.detach()})
        if self.path_every and step % self.path_every == 0:
            lengths = self.stretch(c, noise)
            self.path_length.lerp_(lengths.detach().mean(), _FORGETTING)
            loss = self.path_every * self.path * (lengths - self.path_length).square().mean()
            yield Turn(loss, of="generator", logs={"path_length": lengths.detach().mean()})

    def augmented_scores(
        self, x: Images, c: Condition, noise: Noise, batches: int = 1
    ) -> Float[Tensor, "b"]:
        """The critic's scores of augmented pictures, of so many batches."""
        return self.critic(self.augmentation(x, noise), c, batches)

    def steepness(self, x: Images, c: Condition, noise: Noise) -> Float[Tensor, ""]:
        """E |ds(x)/dx|^2 on some pictures, in full precision."""
        with torch.autocast(x.device.type, enabled=False):
            return r1(partial(self.augmented_scores, c=c, noise=noise), x)

    def stretch(self, c: Condition, noise: Noise) -> Float[Tensor, "half"]:
        """|J_w^T y| for half of the batch, as in the paper, in full precision."""
        half = slice(0, (len(noise) + 1) // 2)
        c, noise = c.rows(half), noise.rows(half)
        with torch.autocast(noise.streams.device.type, enabled=False):
            w = self.mixed_styles(c, noise)
            return path_lengths(
                lambda w: self.synthesis(w, noise), w, noise.normal(*self.spec.shape)
            )

    def mixed_styles(self, c: Condition, noise: Noise) -> Styles:
        """Styles for training: of one z, or from a random layer on of another."""
        n, layers = len(noise), self.style_layers
        one, other = (self.mapping(noise.normal(self.latent), c) for _ in range(2))
        starts = torch.where(noise.uniform() < self.mixing, 1 + noise.integers(layers - 1), layers)
        keeps = torch.arange(layers, device=starts.device) < starts[:, None]
        return torch.where(keeps[:, :, None], one[:, None], other[:, None]).view(n, layers, -1)


def path_lengths(paint: Callable[[Styles], Images], w: Styles, y: Images) -> Float[Tensor, "b"]:
    """|J_w^T y| for each picture: the root of the mean over layers of the squared gradient's sum.

    Args:
        paint: styles to pictures, each of its own.
        w: styles, with gradients.
        y: standard normal noise; divided by the root of the number of pixels, so that lengths do
            not depend on the size.
    """
    y = y / math.sqrt(y.shape[2] * y.shape[3])
    (slope,) = torch.autograd.grad((paint(w) * y).sum(), w, create_graph=True)
    return slope.square().sum(2).mean(1).sqrt()
