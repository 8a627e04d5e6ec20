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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.contract.abilities import Mixes
from limner.contract.codes import Encodes
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Blend, Noise, Purpose
from limner.contract.options import Count, Natural, NonNegative, Rate, Share
from limner.contract.registry import Paper, register
from limner.gans.adversarial_model import GAME, Adversarial, score_both, variety
from limner.gans.augmentation import Augmentation
from limner.gans.losses import OBJECTIVES, game, r1
from limner.gans.resampling import downsample
from limner.gans.stylegan2_networks import Critic, Mapping, Styles, Synthesis, halvings

_MEAN_OF = 1024  # styles for the mean of w, at most
_FORGETTING = 0.01  # of the mean length of paths
_CANDIDATES = 64  # codes where the search for a picture's may begin
_SEARCH_STEPS, _SEARCH_RATE = 200, 0.1
_PRIOR = 1e-3  # weight of a code's mean square in its search


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
class StyleGAN2(Adversarial, Encodes, Mixes):
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
    w_mean: Tensor
    w_axes: Tensor
    spherical: ClassVar[bool] = False

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
        self.register_buffer("w_mean", torch.zeros(1 + len(spec.labels), style))
        self.register_buffer("w_axes", torch.eye(style))

    @property
    def style_layers(self) -> int:
        """How many styles a picture takes, from coarse to fine."""
        return self.synthesis.layer_count

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

    def styles(self, c: Condition, noise: Noise, psi: float, cutoff: int | None) -> Styles:
        """Styles for sampling: of one z each, drawn to the mean by psi in the first layers."""
        w = self.mapping(noise.normal(self.latent), c)
        centre = self.centre(c, len(w))
        near = torch.arange(self.style_layers, device=w.device) < (
            self.style_layers if cutoff is None else cutoff
        )
        return torch.where(near[:, None], torch.lerp(centre, w, psi)[:, None], w[:, None])

    def centre(self, c: Condition, n: int) -> Float[Tensor, "b style"]:
        """The mean style of each row's class, or of all."""
        if c.label is None or len(self.w_mean) == 1:
            return self.w_mean[:1].expand(n, -1)
        return self.w_mean[c.label + 1]

    def calibrate(self, batches: Iterator[Batch]) -> None:
        """The mean style, of all and of each class, and the directions in which it varies."""
        asked = Condition.cat([c for _, c in batches])
        n = max(len(asked), 1)
        asked = asked.repeat(-(-_MEAN_OF // n)).rows(slice(0, _MEAN_OF))
        z = Noise.keyed(0, Purpose.CALIBRATION, range(_MEAN_OF), str(self.device)).normal(
            self.latent
        )
        w = self.mapping(z, asked)
        self.w_mean[0] = w.mean(0)
        for label in range(len(self.w_mean) - 1):
            of_class = replace(asked, label=torch.full((_MEAN_OF,), label, device=z.device))
            self.w_mean[1 + label] = self.mapping(z, of_class).mean(0)
        variance, axes = torch.linalg.eigh(w.double().T.cov())
        spread = variance.clamp(min=1e-6 * float(variance.max())).sqrt()
        self.w_axes.copy_((axes * spread).T)

    @torch.no_grad()
    def encode(self, x: Images, c: Condition = Condition()) -> Float[Tensor, "b style"]:
        """The code whose picture is nearest, found by gradient descent from the best of some.

        w = mean + code * axes, in directions along which w varies by 1 (Zhu, Abdal, Qin,
        Femiani, Wonka, 2020. Improved StyleGAN embedding: where are the good latents?
        arXiv:2012.09036); near are pictures of small square error at all sizes, and short codes
        are preferred. All layers get one style, for there the model's own pictures are.
        """
        wanted = pyramid(x)
        code = self._start(wanted, c).requires_grad_()
        adam = torch.optim.Adam([code], lr=_SEARCH_RATE, betas=(0.9, 0.99))
        for step in range(_SEARCH_STEPS):
            adam.param_groups[0]["lr"] = _SEARCH_RATE * math.cos(math.pi / 2 * step / _SEARCH_STEPS)
            with torch.enable_grad():
                off = pyramid_distance(pyramid(soft_clamp(self.decode(code, c))), wanted)
                loss = (off + _PRIOR * code.square().mean(1)).sum()
                (code.grad,) = torch.autograd.grad(loss, code)
            adam.step()
        return code.detach()

    def _start(self, wanted: list[Tensor], c: Condition) -> Float[Tensor, "b style"]:
        """For each picture, which of some random styles' pictures is the nearest, as a code."""
        starts: list[Tensor] = []
        for i in range(len(wanted[0])):
            own = slice(i, i + 1)
            noise = Noise.sampling(0, _CANDIDATES, str(self.device))
            of = self.fill_condition(_CANDIDATES, c.rows(own).repeat(_CANDIDATES), noise)
            w = self.mapping(noise.normal(self.latent).to(self.w_axes), of)
            code = (w - self.centre(c.rows(own), len(w))) @ torch.linalg.inv(self.w_axes)
            made = pyramid(soft_clamp(self.decode(code, c.rows(own).repeat(len(code)))))
            nearest = pyramid_distance(made, [size[own] for size in wanted]).argmin()
            starts.append(code[nearest])
        return torch.stack(starts)

    def decode(self, z: Float[Tensor, "b style"], c: Condition = Condition()) -> Images:
        """The picture of each code, without noise."""
        w = self.centre(c, len(z)) + z @ self.w_axes
        return self.synthesis(w[:, None].expand(-1, self.style_layers, -1), None)

    def mix(
        self,
        other: Sequence[int | Blend],
        layers: slice,
        c: Condition = Condition(),
        *,
        seed: Sequence[int | Blend],
        **options: Any,
    ) -> Images:
        """Pictures of seeds, with the styles of others' in some layers; see `Mixes`."""
        n = len(other)
        c = (c.repeat(n) if len(c) == 1 else c).to(self.device)
        theirs = Noise.sampling(other, n, str(self.device))
        style_of = theirs, self.fill_condition(n, c, theirs), layers
        frames = partial(self.frames, style_of=style_of)
        *_, x = self.run_frames(frames, n, c, seed, False, options)
        return x

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        psi: Annotated[float, Field(ge=0, le=2)] = 1.0,
        cutoff: Natural | None = None,
        style_of: tuple[Noise, Condition, slice] | None = None,
    ) -> Iterator[Images]:
        """Yield the pictures, from the smallest size to the full one.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            psi: truncation: how far styles are from their mean, 0 for the mean itself; below 1,
                pictures are better on average, and more alike.
            cutoff: layers, from the coarsest on, that are truncated; None for all.
            style_of: other streams, what those are of, and the layers whose styles they give.
        """
        w = self.styles(c, noise, psi, cutoff)
        if style_of is not None:
            theirs, of, layers = style_of
            w[:, layers] = self.styles(of, theirs, psi, cutoff)[:, layers]
        sizes = list(self.synthesis.sizes(w, noise))
        for x in sizes if preview else sizes[-1:]:
            yield F.interpolate(x, self.spec.shape[1:])

    def frame_count(self, **options: object) -> int:
        """One for each size."""
        return self.style_layers // 2


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


def soft_clamp(x: Images) -> Images:
    """What is seen of a picture, and a tenth of what lies beyond [-1, 1], so that it can return."""
    return torch.lerp(x.clamp(-1, 1), x, 0.1)


def pyramid(x: Images) -> list[Tensor]:
    """A picture, and the same halved as long as its sides are even."""
    sizes = [x]
    while not (sizes[-1].shape[2] % 2 or sizes[-1].shape[3] % 2):
        sizes.append(downsample(sizes[-1]))
    return sizes


def pyramid_distance(a: list[Tensor], b: list[Tensor]) -> Float[Tensor, "n"]:
    """The mean squared difference of two pyramids, each size counting alike."""
    each = [(x - y).square().flatten(1).mean(1) for x, y in zip(a, b)]
    return torch.stack(each).mean(0)
