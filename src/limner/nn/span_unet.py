"""A U-Net with two time inputs: the start of a step, and its length."""

from typing import Unpack

from jaxtyping import Float
from torch import Tensor

from limner.contract.image import Condition, ImageSpec
from limner.nn.embed import NumberEmbedding
from limner.nn.unet import PatchOptions, UNet


class SpanUNet(UNet):
    """F(x, label, span, c): a `UNet` with a second embedding, for a second number.

    Its vector is added to those of time and condition.

    Args:
        spec: the specification of the images.
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
        """Return an output of the picture's size.

        Args:
            x: the picture.
            label: the time.
            span: the length of the step; both vary over about a thousand.
            c: the condition of the picture.
        """
        signal, vector = self.conditioner(c, len(x)), self.span(span)
        if signal.vector is not None:
            vector = vector + signal.vector
        return self.decode(self.encode(x, label, signal._replace(vector=vector)))
