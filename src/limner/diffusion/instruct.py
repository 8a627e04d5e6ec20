"""InstructPix2Pix: a picture and an instruction, and the picture after it.

Brooks, Holynski, Efros (2023). InstructPix2Pix: learning to follow image editing instructions.
arXiv:2211.09800.

A trained denoiser is told the picture before: its numbers are further channels of the first
convolution, whose weights for them are 0 at first, and the text is the instruction. Training hides
the instruction, the picture or both, each one time in twenty, so that both can guide (eq. 3):

    D = D(x_t, 0, 0) + s_I (D(x_t, I, 0) - D(x_t, 0, 0)) + s_T (D(x_t, I, T) - D(x_t, I, 0))

Kept: the further channels, what is hidden, both scales. Different: the base is any model of this
library whose network is a `UNet` or a `PlainUNet`, on pixels or among the maps of an autoencoder;
it learns as a whole, as in the paper, or only a low-rank change of it does, which makes a small
file (Hu et al. (2021), arXiv:2106.09685). The paper's pairs were painted by models; `instructions`
has exact ones. Added, if asked for: three numbers m, a, b a pixel, of the network's last features,

    F = (1 - m) F_base + a x + b I,    x what the network is given of x_t,

which are 0 at first. D = I is one of these F, whatever the parametrisation, so that what stays need
not be painted again; a small change of a small network loses its detail. In sampling, what was
hardly changed may be left to the pixel, so that an autoencoder costs it nothing
(`sampler.tolerance`).
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.abilities import Latents
from limner.contract.editing import Follows, check_mask
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel, Turn
from limner.contract.noise import Noise, Seeds
from limner.contract.options import Natural, NonNegative, Share
from limner.contract.registry import Paper, register
from limner.diffusion.frozen_base import Base, ExtendsBase, checked_base, with_network
from limner.diffusion.sampling import Plan, Scale, WalkOptions
from limner.maths.denoisers import Clipped, GuidedByPicture
from limner.nn.low_rank import LowRank
from limner.nn.plain_unet import PlainUNet
from limner.nn.unet import UNet


class _WithSource(nn.Module):
    """A network that is told features of another picture besides."""

    def __init__(self, network: UNet | PlainUNet) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        label: Float[Tensor, "b"],
        c: Condition,
        source: Float[Tensor, "b d hh ww"],
    ) -> tuple[Float[Tensor, "b out h w"], Float[Tensor, "b e hh ww"]]:
        """The output F(x, label, c), and the features that it is made of.

        Args:
            x, label, c: see `UNet.forward`.
            source: what is added to the features of the first convolution.
        """
        signal = self.network.conditioner(c, len(x))
        h = self.network.last(self.network.encode(x, label, signal, source))
        return self.network.paint(h), h


class InstructedNetwork(nn.Module):
    """F(x, label, c) of a base that is told the picture before, which is the condition's image.

    Args:
        network: of the base.
        source: the convolution of the picture's patches.
        change: of the network's weights; None where it learns as a whole.
        keep: the convolution of the last features to m, a and b; None where all is painted.
    """

    def __init__(
        self,
        network: UNet | PlainUNet,
        source: nn.Conv2d,
        change: LowRank | None,
        keep: nn.Conv2d | None,
    ) -> None:
        super().__init__()
        self.told, self.source = _WithSource(network), source
        self.change, self.keep = change, keep

    def forward(
        self, x: Float[Tensor, "b c h w"], label: Float[Tensor, "b"], c: Condition
    ) -> Float[Tensor, "b out h w"]:
        """The output."""
        image, prompt = c.image, replace(c, image=None, present=None)
        assert image is not None, "the condition has its picture"
        image, patch = image.to(x), self.told.network.patch
        source = self.source(F.pixel_unshuffle(image, patch))
        present = None if c.present is None else c.present.to(source).view(-1, 1, 1, 1)
        if present is not None:
            source = source * present
        if self.change is None:
            out, h = self.told(x, label, prompt, source)
        else:
            out, h = self.change(self.told, x, label, prompt, source)
        if self.keep is None:
            return out
        maps = F.pixel_shuffle(self.keep(h), patch)
        m, a, b = (maps if present is None else maps * present).chunk(3, dim=1)
        mean, rest = out[:, : x.shape[1]], out[:, x.shape[1] :]  # some have a variance, too
        return torch.cat([mean - m * mean + a * x + b * image, rest], dim=1)


@register(
    "instruct",
    family="diffusion",
    paper=Paper(
        "InstructPix2Pix: learning to follow image editing instructions",
        "Brooks, Holynski, Efros",
        2023,
        "2211.09800",
    ),
    tiny={"base": {"model": "flow-matching", "spec": {"hint": None}}, "rank": 2},
    train={"lr": 5e-4, "clip": 1.0, "ema": 0.999},
)
class Instruct(ExtendsBase, Follows):
    """InstructPix2Pix: a trained denoiser learns to change a picture as an instruction says.

    Args:
        spec: specification of the images, and the pictures before as their hints (the source
            `instructions`, or paired:BEFORE,AFTER).
        base: a trained denoising model of pictures of the same shape; as in
            train.init.base="runs/NAME".
        rank: of the change of each of the base's weights; 0 lets them learn as a whole.
        keep: whether the picture before may be taken over as it is, place by place.
        hidden: how often training hides the instruction, the picture, and both.

    Raises:
        LimnerError: the data have no pictures before or of other channels, the base does not
            denoise, or knows other data.
    """

    def __init__(
        self,
        spec: ImageSpec,
        base: GenerativeModel,
        rank: Natural = 0,
        keep: bool = False,
        hidden: Share = 0.05,
    ) -> None:
        super().__init__()
        if spec.hint is None:
            raise LimnerError(
                "instructions change pictures, and these data have none to change; train on the "
                "source instructions, or on paired:BEFORE,AFTER"
            )
        if spec.hint.channels not in (1, spec.channels):
            raise LimnerError(
                f"the pictures before have {spec.hint.channels} channels, and those after "
                f"{spec.channels}; give data.channels={spec.channels} for both"
            )
        if 3 * hidden > 1:
            raise LimnerError(f"model.hidden={hidden:g} is hidden three ways; give at most 0.33")
        self.base = checked_base(spec, base).requires_grad_(False)
        self.hidden, network = hidden, self.base_network
        among = self.denoiser.spec.channels
        self.source = nn.Conv2d(
            among * network.patch**2, network.conv_in.out_channels, 3, padding=1, bias=False
        )
        nn.init.zeros_(self.source.weight)
        self.keep = keep_nothing(network) if keep else None
        self.change = LowRank(_WithSource(network), rank) if rank else None
        if self.change is None:
            network.requires_grad_(True)
        self.couples_batch = base.couples_batch

    @property
    def _instructed(self) -> Base:
        """The base with what was learnt; weights are shared."""
        network = InstructedNetwork(self.base_network, self.source, self.change, self.keep)
        return with_network(self.base, network)

    def base_for(self, c: Condition, n: int) -> tuple[Base, Condition]:
        """The base with what was learnt, told the picture before."""
        return self._instructed, self.sourced(c, n)

    def formula(self) -> list[str]:
        """What the denoiser is told, and what learns."""
        learning = sum(p.numel() for p in self.players()["instructed"].parameters())
        what = "its low-rank change" if self.change else "all of it"
        return [
            "D = D(x_t) + s_I (D(x_t, I) - D(x_t)) + s_T (D(x_t, I, T) - D(x_t, I))",
            f"D of {self.base.name}, told the picture I; {what} learns: {learning:,} parameters",
        ]

    def players(self) -> dict[str, nn.Module]:
        """What is told the picture, what changes of the base, and what keeps."""
        parts = [self.source, self.change or self.base_network, self.keep]
        return {"instructed": nn.ModuleList(part for part in parts if part is not None)}

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """The base's moves, told the picture; it, the instruction or both are hidden at times."""
        c = self.sourced(batch.c, len(batch.x))
        u = noise.uniform().to(batch.x.device)
        no_text, no_image = u < 2 * self.hidden, (u >= self.hidden) & (u < 3 * self.hidden)
        label = None if c.label is None else c.label.masked_fill(no_text, -1)
        text = None if c.text is None else c.text.masked_fill(no_text[:, None], 0)
        assert c.present is not None
        c = replace(c, label=label, text=text, present=c.present & ~no_image)
        yield from self._instructed.turns(Batch(batch.x, c), step, noise)

    def sourced(self, c: Condition, n: int) -> Condition:
        """The condition whose image is the picture where the denoiser works: pixels, or a map.

        Args:
            c: what is asked for; without an image all n pictures are painted without one.
            n: how many.

        Raises:
            LimnerError: the picture has another shape than those of the training.
        """
        known, like = self.spec.hint, self.source.weight
        assert known is not None
        if c.image is None:
            blank = like.new_zeros(n, *self.denoiser.spec.shape)
            return replace(c, image=blank, present=blank.new_zeros(n, dtype=torch.bool))
        if tuple(c.image.shape[1:]) != known.shape:
            asked, given = (" x ".join(map(str, each)) for each in (known.shape, c.image.shape[1:]))
            raise LimnerError(f"this model changes pictures of {asked}, not of {given}")
        present = c.present
        if present is None:
            present = torch.ones(len(c.image), dtype=torch.bool, device=like.device)
        image = self.fitted(c.image)
        with torch.no_grad():
            image, _ = self.base.to_latent(image, None, _Fixed(image))
        return replace(c, image=image, present=present)

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        scale: Scale = 1.0,
        image_scale: Scale = 1.0,
        tolerance: NonNegative = 0.0,
        **options: Unpack[WalkOptions],
    ) -> Iterator[Images]:
        """Yield the denoiser's view of the finished picture at every step, then the picture.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            scale: how closely the instruction is followed (guidance, s_T); the paper's is 7.5.
            image_scale: how much of the picture before stays (guidance, s_I); the paper's is 1.5.
            tolerance: places where a map, or a pixel without one, differs by less from that of the
                picture before are taken from there, if those around them do, too; 0 paints all.
            options: see `WalkOptions`.
        """
        plan = self.plan(scale=scale, image_scale=image_scale, **options)
        told = self.sourced(c, n)
        for x in plan.walked(self.first(noise), told, noise, preview):
            painted = self.to_image(x)
            if tolerance and c.image is not None:
                before, changed = self.fitted(c.image), self._changed(x, told, tolerance)
                size = before.shape[-2:]
                painted = torch.lerp(before, painted, F.interpolate(changed, size, mode="bilinear"))
            yield painted

    @staticmethod
    def _changed(x: Latents, told: Condition, tolerance: float) -> Float[Tensor, "b 1 h w"]:
        """Where x is not the picture before, or is next to such a place: 1, elsewhere 0."""
        assert told.image is not None and told.present is not None
        far = ((x - told.image).abs().amax(1, keepdim=True) > tolerance).to(x)
        far = torch.maximum(far, 1 - told.present.to(x).view(-1, 1, 1, 1))
        return F.max_pool2d(far, 3, 1, 1)

    def fitted(self, image: Float[Tensor, "b k hh ww"]) -> Images:
        """Pictures before in the size and the channels of those after."""
        image = image.to(self.source.weight).expand(-1, self.spec.channels, -1, -1)
        if tuple(image.shape[2:]) != self.spec.shape[1:]:
            image = F.interpolate(image, self.spec.shape[1:], mode="bilinear", antialias=True)
        return image

    def follow(
        self,
        image: Images,
        c: Condition,
        *,
        seed: Seeds = 0,
        preview: bool = True,
        **options: Any,
    ) -> Iterator[Images]:
        """Yield pictures after an instruction: `Follows`."""
        if c.text is None:
            raise LimnerError("there is no instruction to follow; give one, as 'make it blue'")
        check_mask(self.spec, image, None)
        c = replace(c.repeat(len(image)) if len(c) == 1 else c, image=image, present=None)
        yield from self.watch(len(image), c, seed=seed, preview=preview, **options)

    def plan(
        self,
        *,
        scale: float = 1.0,
        image_scale: float = 1.0,
        tolerance: float = 0.0,
        **options: Any,
    ) -> Plan:
        """The base's, guided by both; its condition is `sourced`. It is of the walk alone, which
        the tolerance does not change.
        """
        plan = self._instructed.plan(**options)
        within = plan.D.denoiser if isinstance(plan.D, Clipped) else plan.D
        interval, rescale = options.get("interval"), options.get("rescale") or 0.0
        D = GuidedByPicture(within, scale, interval, rescale, image_scale)
        return plan._replace(D=Clipped(D) if isinstance(plan.D, Clipped) else D)

    def told(self, c: Condition, n: int) -> Condition:
        """With the picture where the denoiser works, see `sourced`."""
        return self.sourced(c, n)

    def told_plan(self, c: Condition, n: int, **options: Any) -> tuple[Plan, Condition]:
        """That of `plan`, which is told the picture where the denoiser works.

        Raises:
            LimnerError: what hardly changed is to stay, which a walk alone cannot do.
        """
        if options.get("tolerance"):
            raise LimnerError("a walk paints the whole picture anew; give sampler.tolerance=0")
        return self.plan(**options), self.sourced(c, n)

    def to_latent(
        self, image: Images, mask: Float[Tensor, "b 1 h w"] | None, noise: Noise
    ) -> tuple[Latents, Tensor | None]:
        """As the base does."""
        return self.base.to_latent(image, mask, noise)

    def to_image(
        self, x: Latents, image: Images | None = None, mask: Float[Tensor, "b 1 h w"] | None = None
    ) -> Images:
        """As the base does."""
        return self.base.to_image(x, image, mask)

    def edited(
        self,
        image: Images,
        mask: Float[Tensor, "b 1 h w"] | None,
        strength: float,
        rounds: int,
        n: int,
        c: Condition,
        *,
        noise: Noise,
        preview: bool,
        **options: Any,
    ) -> Iterator[Images]:
        """What `edit` yields, told the picture before."""
        c = self.sourced(c, n)
        yield from super().edited(
            image, mask, strength, rounds, n, c, noise=noise, preview=preview, **options
        )


def keep_nothing(network: UNet | PlainUNet) -> nn.Conv2d:
    """The convolution of a network's last features to m, a and b, which are 0."""
    conv = nn.Conv2d(network.conv_out.in_channels, 3 * network.patch**2, 3, padding=1)
    for part in conv.parameters():
        nn.init.zeros_(part)
    return conv


class _Fixed(Noise):
    """Random streams by which a picture always has the same map; a graph has them as numbers."""

    def __init__(self, x: Images) -> None:
        super().__init__(torch.zeros(len(x), dtype=torch.int64, device=x.device))

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b *shape"]:
        """The next numbers, the same for each picture."""
        self.draws += 1
        drawn = _drawn(self.draws, shape, dtype).to(self.streams.device)
        return drawn.expand(len(self), *shape)


@lru_cache(maxsize=4)
def _drawn(number: int, shape: tuple[int, ...], dtype: torch.dtype) -> Float[Tensor, "1 *shape"]:
    noise = Noise.sampling(0, 1)
    noise.draws = number - 1
    return noise.normal(*shape, dtype=dtype)
