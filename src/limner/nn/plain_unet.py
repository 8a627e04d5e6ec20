"""The U-Net of DDPM: on pixels, with a skip connection at every layer."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.nn.condition import Conditioner, Signal
from limner.nn.embed import NumberEmbedding
from limner.nn.norm import NormSiLU
from limner.nn.residual import ResidualBlock
from limner.nn.unet import Encoder, Stage, UNetFeatures, check_halvings, copy_parts, time_vector
from limner.nn.upsampling import upsample_conv


class PlainEncoder(Encoder):
    """The encoder of a `PlainUNet`, up to the middle; it passes on every layer's output."""

    patch = 1
    after: ResidualBlock

    def half(self) -> Encoder:
        """Return a copy of the encoder alone."""
        names = ("time", "conv_in", "down", "downsample", "middle", "after")
        return copy_parts(self, PlainEncoder(), *names)

    def widths(self) -> list[int]:
        """Return the channels of all features that `encode` passes on, and of the middle."""
        widths, last = [self.conv_in.out_channels], len(self.downsample)
        for level, stages in enumerate(self.down):
            stage_widths = [stage.out_channels for stage in stages.children()]  # pyright: ignore
            widths += stage_widths + stage_widths[-1:] * (level < last)
        return [*widths, self.middle.out_channels]  # pyright: ignore

    def encode(
        self,
        x: Float[Tensor, "b c h w"],
        label: Float[Tensor, "b"],
        signal: Signal,
        hint: Float[Tensor, "b d hh ww"] | None = None,
    ) -> UNetFeatures:
        """Return the features of a picture: `Encoder.encode`."""
        vector = time_vector(self.time, label, signal)
        if signal.planes is not None:
            x = torch.cat([x, signal.planes.to(x)], dim=1)
        h = self.conv_in(x)
        h = h if hint is None else h + hint
        skips = [h]
        for level, stages in enumerate(self.down):
            for stage in stages.children():
                h = stage(h, vector, signal)
                skips.append(h)
            if level < len(self.downsample):
                h = self.downsample[level](h)
                skips.append(h)
        return UNetFeatures(
            skips, self.after(self.middle(h, vector, signal), vector), vector, signal
        )


class PlainUNet(PlainEncoder):
    """F(x, label, c): a U-Net on pixels; its decoder gets the output of every encoder layer.

    Ho et al. (2020), arXiv:2006.11239, appendix B, with scale and shift from the time as in Nichol,
    Dhariwal (2021), arXiv:2102.09672; it is the `UNet2DModel` of diffusers. It has no patches, one
    more block at each resolution of the decoder, and upsamples with nearest neighbours and a 3 x 3
    convolution. So it costs 7.3 times the arithmetic of `nn.unet.UNet` (2.02 and 0.28 GFLOP for a
    32 x 32 picture, channels 64 and 128).

    Args:
        spec: the specification of the images.
        channels, blocks, attention, dropout: see `UNetOptions`; the decoder has one block more at
            each resolution.
        out: the channels of the output; those of the picture unless given.
    """

    def __init__(
        self,
        spec: ImageSpec,
        channels: tuple[int, ...],
        blocks: int,
        attention: int,
        dropout: float,
        out: int | None = None,
    ) -> None:
        super().__init__()
        check_halvings(spec, len(channels), 1)
        if channels[0] % 2:
            raise LimnerError(f"model.channels={channels[0]}: the first number must be even")
        vector = 4 * channels[0]
        self.channels, self.blocks, self.attention = channels, blocks, attention
        self.groups = common_groups(channels)
        self.head_dim = math.gcd(32, *channels)
        self.conditioner = Conditioner(spec, vector)
        self.time = NumberEmbedding(vector, features=channels[0])

        def stage(ins: int, level: int, site: str) -> Stage:
            attends = level >= len(channels) - attention
            tokens = self.conditioner.token_dim
            options = (self.head_dim, self.groups)
            return Stage(ins, channels[level], vector, dropout, attends, tokens, site, *options)

        self.conv_in = nn.Conv2d(spec.channels + self.conditioner.planes, channels[0], 3, padding=1)
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        width, last, skips = channels[0], len(channels) - 1, [channels[0]]
        for level, level_width in enumerate(channels):
            stages = nn.ModuleList()
            for i in range(blocks):
                stages.append(stage(width, level, f"down{level}.{i}"))
                skips.append(width := level_width)
            self.down.append(stages)
            if level < last:
                skips.append(level_width)
                self.downsample.append(nn.Conv2d(level_width, level_width, 3, stride=2, padding=1))
        self.middle = stage(width, last, "middle")
        self.after = ResidualBlock(width, width, vector, dropout, self.groups)
        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level, level_width in reversed(list(enumerate(channels))):
            stages = nn.ModuleList()
            for i in range(blocks + 1):
                stages.append(stage(width + skips.pop(), level, f"up{level}.{i}"))
                width = level_width
            self.up.append(stages)
            if level:
                self.upsample.append(nn.Conv2d(level_width, level_width, 3, padding=1))
        self.norm = NormSiLU(width, count=self.groups)
        self.conv_out = nn.Conv2d(width, out or spec.channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # pyright: ignore[reportArgumentType]
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self, x: Float[Tensor, "b c h w"], label: Float[Tensor, "b"], c: Condition
    ) -> Float[Tensor, "b out h w"]:
        """Return an output of the picture's size, given a number (time) and the picture's
        condition."""
        return self.decode(self.encode(x, label, self.conditioner(c, len(x))))

    def decode(self, features: UNetFeatures) -> Float[Tensor, "b out h w"]:
        """Return the output, given the features of `encode`; see `UNet.decode`."""
        return self.paint(self.last(features))

    def last(self, features: UNetFeatures) -> Float[Tensor, "b c h w"]:
        """Return the features that the output is computed from."""
        skips, h, vector, signal = list(features.skips), *features[1:]
        for level, stages in enumerate(self.up):
            for stage in stages.children():
                h = stage(torch.cat([h, skips.pop()], dim=1), vector, signal)
            if level < len(self.upsample):
                h = upsample_conv(self.upsample[level], h)
        return self.norm(h)

    def paint(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b out h w"]:
        """Return the output, given the features of `last`."""
        return self.conv_out(h)


def common_groups(channels: tuple[int, ...]) -> int:
    """Return the number of groups of all norms: the most, up to 32, that divide every width and
    leave 4 channels in each."""
    min_channels = min(channels)
    fitting = (g for g in (32, 16, 8, 4, 2, 1) if all(width % g == 0 for width in channels))
    return next(g for g in fitting if min_channels // g >= min(4, min_channels))
