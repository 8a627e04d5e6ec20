"""A U-Net that is told the length of a step besides the time at which it begins."""

from typing import Unpack

from jaxtyping import Float
from torch import Tensor

from limner.contract.image import Condition, ImageSpec
from limner.nn.embed import NumberEmbedding
from limner.nn.unet import PatchOptions, UNet


class SpanUNet(UNet):
    """F(x, label, span, c): a `UNet` with an embedding of its own for a second number.

    Both vectors add up, as those of time and condition do.

    Args:
        spec: what the images are.
        unet: see `PatchOptions`.
    """

    def __init__(self, spec: ImageSpec, **unet: Unpack[PatchOptions]) -> None:
        super().__init__(spec, **unet)
        self.span = NumberEmbedding(4 * self.conv_in.out_channels)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Float[Tensor, "b c h w"],
        label: Float[Tensor, "b"],
        span: Float[Tensor, "b"],
        c: Condition,
    ) -> Float[Tensor, "b out h w"]:
        """An output of the picture's size.

        Args:
            x: the picture.
            label: the time.
            span: the length of the step; both vary over about a thousand.
            c: what the picture is of.
        """
        signal, vector = self.conditioner(c, len(x)), self.span(span)
        if signal.vector is not None:
            vector = vector + signal.vector
        return self.decode(self.encode(x, label, signal._replace(vector=vector)))
