"""A U-Net that is told the length of a step besides the time at which it begins."""

from jaxtyping import Float
from torch import Tensor

from limner.contract.image import Condition, ImageSpec
from limner.contract.options import Widths
from limner.nn.embed import NumberEmbedding
from limner.nn.unet import UNet


class SpanUNet(UNet):
    """F(x, label, span, c): a `UNet` with an embedding of its own for a second number.

    Both vectors add up, as those of time and condition do.

    Args:
        spec: what the images are.
        channels, blocks, attention, patch, dropout: of the `UNet`.
    """

    def __init__(
        self,
        spec: ImageSpec,
        channels: Widths = (64, 128),
        blocks: int = 1,
        attention: int = 1,
        patch: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec, channels, blocks, attention, patch, dropout)
        self.span = NumberEmbedding(4 * channels[0])

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
