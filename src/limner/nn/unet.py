"""The U-Net: the denoiser of most diffusion models, and an image-to-image network."""

import copy
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple, TypedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.options import Count, Natural, Rate, Widths
from limner.nn.attention import Attention
from limner.nn.condition import Conditioner, Signal
from limner.nn.embed import NumberEmbedding
from limner.nn.fourier_features import FourierFeatures
from limner.nn.norm import NormSiLU
from limner.nn.residual import ResidualBlock


class UNetOptions(TypedDict, total=False):
    """Options of a U-Net that its models share.

    Args:
        channels: the channels of each resolution, finest first; each further one halves height and
            width.
        blocks: the number of residual blocks at each resolution, in the encoder and again in the
            decoder.
        attention: the number of coarsest resolutions that have attention.
        dropout: the dropout probability in the residual blocks.
    """

    channels: Annotated[Widths, Field(default=(64, 128))]
    blocks: Annotated[Count, Field(default=1)]
    attention: Annotated[Natural, Field(default=1)]
    dropout: Annotated[Rate, Field(default=0.0)]


class PatchOptions(UNetOptions, total=False):
    """Options of a U-Net on patches, `UNet`, that its models share.

    Args:
        channels: the channels of each resolution, finest first; each further one halves height and
            width.
        blocks: the number of residual blocks at each resolution, in the encoder and again in the
            decoder.
        attention: the number of coarsest resolutions that have attention.
        dropout: the dropout probability in the residual blocks.
        patch: the side of the blocks of pixels that become channels.
    """

    patch: Annotated[Count, Field(default=2)]


class Stage(nn.Module):
    """A residual block, then self-attention, and cross-attention if there are tokens."""

    def __init__(
        self,
        channels: int,
        out: int,
        vector: int,
        dropout: float,
        attention: bool,
        token_dim: int | None,
        site: str,
        head_dim: int = 32,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = out
        self.block = ResidualBlock(channels, out, vector, dropout, groups)
        self.self_attention = self.cross_attention = None
        if attention:
            self.self_attention = Attention(out, head_dim, site=f"{site}.self", groups=groups)
        if attention and token_dim:
            self.cross_attention = Attention(out, token_dim=token_dim, site=f"{site}.cross")

    def forward(
        self, x: Float[Tensor, "b c h w"], vector: Float[Tensor, "b d"], signal: Signal
    ) -> Float[Tensor, "b out h w"]:
        """Return features at the same resolution."""
        x = self.block(x, vector)
        if self.self_attention is not None:
            x = self.self_attention(x)
        if self.cross_attention is not None and signal.tokens is not None:
            x = self.cross_attention(x, signal.tokens, signal.mask)
        return x


class UNetFeatures(NamedTuple):
    """The output of a U-Net's encoder, which its decoder needs.

    Args:
        skips: the features that each layer passes on to the decoder, finest first.
        middle: the features of the middle.
        vector: the vector of time and condition, for all layers.
        signal: the signal of the condition.
    """

    skips: list[Tensor]
    middle: Float[Tensor, "b c h w"]
    vector: Float[Tensor, "b d"]
    signal: Signal

    def plus(self, residuals: Sequence[Tensor]) -> "UNetFeatures":
        """Add residuals: one for each of `skips`, then one for `middle`."""
        skips = [h + residual for h, residual in zip(self.skips, residuals[:-1], strict=True)]
        return self._replace(skips=skips, middle=self.middle + residuals[-1])


class Encoder(nn.Module):
    """The encoder of a U-Net, up to the middle; a `UNet` is one that also has a decoder."""

    patch: int
    time: NumberEmbedding
    fourier: FourierFeatures | None
    conv_in: nn.Conv2d
    down: nn.ModuleList
    downsample: nn.ModuleList
    middle: Stage

    @property
    def size_unit(self) -> int:
        """The sides of pictures must be multiples of this, because each resolution halves them."""
        return self.patch * 2 ** (len(self.down) - 1)

    def half(self) -> "Encoder":
        """Return a copy of the encoder alone."""
        names = ("time", "fourier", "conv_in", "down", "downsample", "middle")
        return copy_parts(self, Encoder(), *names)

    def widths(self) -> list[int]:
        """Return the channels of all features that `encode` passes on, and of the middle."""
        stages = [stage for stages in self.down for stage in stages.children()]
        return [stage.out_channels for stage in (*stages, self.middle)]  # pyright: ignore

    def encode(
        self,
        x: Float[Tensor, "b c h w"],
        label: Float[Tensor, "b"],
        signal: Signal,
        hint: Float[Tensor, "b d hh ww"] | None = None,
    ) -> UNetFeatures:
        """Return the features of a picture.

        Args:
            x: the picture.
            label: a number, such as time.
            signal: the condition of the picture.
            hint: features to add to the output of `conv_in`.
        """
        vector = time_vector(self.time, label, signal)
        if self.fourier is not None:
            x = self.fourier(x, vector)
        if signal.planes is not None:
            x = torch.cat([x, signal.planes.to(x)], dim=1)
        h = self.conv_in(F.pixel_unshuffle(x, self.patch))
        h = h if hint is None else h + hint
        skips: list[Tensor] = []
        for stages, downsample in zip(self.down, self.downsample):
            for stage in stages.children():
                h = stage(h, vector, signal)
                skips.append(h)
            h = downsample(h)
        return UNetFeatures(skips, self.middle(h, vector, signal), vector, signal)


def copy_parts(network: nn.Module, half: Encoder, *names: str) -> Encoder:
    """Fill an empty encoder with copies of some parts of a network, and return it."""
    half.patch = network.patch  # pyright: ignore
    for name in names:
        setattr(half, name, copy.deepcopy(getattr(network, name)))
    return half


def time_vector(time: nn.Module, label: Float[Tensor, "b"], signal: Signal) -> Float[Tensor, "b d"]:
    """Return the vector for all layers: the sum of time and condition."""
    vector = time(label)
    return F.silu(vector if signal.vector is None else vector + signal.vector)


class UNet(Encoder):
    """F(x, label, c): an encoder and a decoder of residual blocks, with skips at each resolution.

    Ronneberger, Fischer, Brox (2015), arXiv:1505.04597, with time, classes and attention as in Ho
    et al. (2020), arXiv:2006.11239, and Dhariwal, Nichol (2021), arXiv:2105.05233. It works on
    patches: the picture's 2 x 2 blocks become channels (pixel-unshuffle), which costs a quarter of
    the arithmetic; a 3 x 3 convolution at full resolution afterwards removes the blocks' seams. The
    output is 0 at first. If there is text, attention to its tokens follows self-attention, as in
    Rombach et al. (2021), arXiv:2112.10752.

    Args:
        spec: the specification of the images.
        channels, blocks, attention, patch, dropout: see `PatchOptions`.
        out: the channels of the output; those of the picture unless given.
        fourier: the number of pairs of `FourierFeatures` that are added to the input.
    """

    def __init__(
        self,
        spec: ImageSpec,
        channels: tuple[int, ...],
        blocks: int,
        attention: int,
        patch: int,
        dropout: float,
        out: int | None = None,
        fourier: int = 0,
    ) -> None:
        super().__init__()
        check_halvings(spec, len(channels), patch)
        vector = 4 * channels[0]
        self.patch = patch
        self.conditioner = Conditioner(spec, vector)
        self.time = NumberEmbedding(vector)
        out = out or spec.channels
        self.fourier = (
            FourierFeatures(spec.channels, spec.levels, fourier, vector) if fourier else None
        )
        channels_in = self.fourier.out_channels if self.fourier else spec.channels
        inputs = (channels_in + self.conditioner.planes) * patch**2
        self.conv_in = nn.Conv2d(inputs, channels[0], 3, padding=1)

        def stage(ins: int, level: int, site: str) -> Stage:
            attends = level >= len(channels) - attention
            token_dim = self.conditioner.token_dim
            return Stage(ins, channels[level], vector, dropout, attends, token_dim, site)

        self.down, self.downsample = _encoder_stages(channels, blocks, stage)
        self.middle = stage(channels[-1], len(channels) - 1, "middle")
        self.up = nn.ModuleList()
        self.upsample = nn.ModuleList()
        for level, width in reversed(list(enumerate(channels))):
            self.up.append(
                nn.ModuleList(stage(2 * width, level, f"up{level}.{i}") for i in range(blocks))
            )
            finer = channels[level - 1] if level else None
            self.upsample.append(nn.Conv2d(width, 4 * finer, 1) if finer else nn.Identity())
        self.norm = NormSiLU(channels[0])
        self.conv_out = nn.Conv2d(channels[0], out * patch**2, 3, padding=1)
        self.deblock = nn.Conv2d(out, out, 3, padding=1) if patch > 1 else None
        for layer in (self.conv_out, self.deblock):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self, x: Float[Tensor, "b c h w"], label: Float[Tensor, "b"], c: Condition
    ) -> Float[Tensor, "b out h w"]:
        """Return an output of the picture's size, given a number (time) and the picture's
        condition."""
        return self.decode(self.encode(x, label, self.conditioner(c, len(x))))

    def decode(self, features: UNetFeatures) -> Float[Tensor, "b out h w"]:
        """Return the output, given the features of `encode`; a control adds to them, see
        `UNetFeatures.plus`."""
        return self.paint(self.last(features))

    def last(self, features: UNetFeatures) -> Float[Tensor, "b c hh ww"]:
        """Return the features that the output is computed from, patch by patch."""
        skips, h, vector, signal = list(features.skips), *features[1:]
        for stages, upsample in zip(self.up, self.upsample):
            for stage in stages.children():
                h = stage(torch.cat([h, skips.pop()], dim=1), vector, signal)
            h = upsample(h)
            if not isinstance(upsample, nn.Identity):
                h = F.pixel_shuffle(h, 2)
        return self.norm(h)

    def paint(self, h: Float[Tensor, "b c hh ww"]) -> Float[Tensor, "b out h w"]:
        """Return the output, given the features of `last`."""
        h = F.pixel_shuffle(self.conv_out(h), self.patch)
        return h if self.deblock is None else h + self.deblock(h)


class HalfUNet(nn.Module):
    """F(x, label, c): the encoder of a `UNet`, then numbers from its last features.

    Dhariwal, Nichol (2021), arXiv:2105.05233, section 4; features are averaged over places, where
    the paper uses attention.

    Args:
        spec: the specification of the images; its labels and captions are not used.
        channels, blocks, attention, patch, dropout: see `PatchOptions`.
        out: the number of outputs.
    """

    def __init__(
        self,
        spec: ImageSpec,
        channels: tuple[int, ...],
        blocks: int,
        attention: int,
        patch: int,
        dropout: float,
        out: int,
    ) -> None:
        super().__init__()
        check_halvings(spec, len(channels), patch)
        vector = 4 * channels[0]
        self.patch = patch
        self.time = NumberEmbedding(vector)
        self.conv_in = nn.Conv2d(spec.channels * patch**2, channels[0], 3, padding=1)

        def stage(ins: int, level: int, site: str) -> Stage:
            attends = level >= len(channels) - attention
            return Stage(ins, channels[level], vector, dropout, attends, None, site)

        self.down, self.downsample = _encoder_stages(channels, blocks, stage)
        self.norm = NormSiLU(channels[-1])
        self.linear_out = nn.Linear(channels[-1], out)
        nn.init.zeros_(self.linear_out.weight)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self, x: Float[Tensor, "b c h w"], label: Float[Tensor, "b"]
    ) -> Float[Tensor, "b out"]:
        """Return the outputs for a picture, given a number (time)."""
        vector, signal = F.silu(self.time(label)), Signal()
        h = self.conv_in(F.pixel_unshuffle(x, self.patch))
        for stages, downsample in zip(self.down, self.downsample):
            for stage in stages.children():
                h = stage(h, vector, signal)
            h = downsample(h)
        return self.linear_out(self.norm(h).mean((2, 3)))


def _encoder_stages(
    channels: tuple[int, ...], blocks: int, stage: Callable[[int, int, str], Stage]
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Return the stages of each resolution, and the layers that halve it to the next."""
    down, downsample = nn.ModuleList(), nn.ModuleList()
    for level, width in enumerate(channels):
        down.append(nn.ModuleList(stage(width, level, f"down{level}.{i}") for i in range(blocks)))
        deeper = channels[level + 1] if level + 1 < len(channels) else None
        downsample.append(nn.Conv2d(width, deeper, 2, stride=2) if deeper else nn.Identity())
    return down, downsample


def check_halvings(spec: ImageSpec, resolutions: int, patch: int) -> None:
    """Refuse a picture that cannot be halved between resolutions.

    Raises:
        LimnerError: the sides are not multiples of what the resolutions need; the message says
            which size would fit.
    """
    unit = patch * 2 ** (resolutions - 1)
    fitting = -(-max(spec.height, spec.width) // unit) * unit
    if spec.height % unit or spec.width % unit:
        remedies = f"data.size={fitting}, fewer model.channels" + ", or model.patch=1" * (patch > 1)
        raise LimnerError(
            f"pictures of {spec.height} x {spec.width} cannot be halved as this U-Net needs: their "
            f"sides must be multiples of {unit} ({remedies})"
        )
