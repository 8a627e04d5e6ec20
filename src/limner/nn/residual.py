"""The residual block of convolutional denoisers."""

from jaxtyping import Float
from torch import Tensor, nn

from limner.nn.convolution import Conv3x3
from limner.nn.norm import NormSiLU


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, norm with FiLM, SiLU, dropout, conv (zero at first), plus the input.

    He et al. (2015), arXiv:1512.03385; the scale and shift from a vector as in Dhariwal, Nichol
    (2021), arXiv:2105.05233 ("adaptive group normalization"). If `channels` and `out`
    differ, the input passes through a 1 x 1 convolution.

    Args:
        channels: input channels.
        out: output channels.
        vector: the length of the vector that sets scale and shift; None without one.
        dropout: the dropout probability.
        groups: the number of groups of the norms; as many as fit unless given.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        vector: int | None = None,
        dropout: float = 0.0,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.norm_1 = NormSiLU(channels, count=groups)
        self.conv_1 = Conv3x3(channels, out)
        self.norm_2 = NormSiLU(out, count=groups)
        self.film = nn.Linear(vector, 2 * out) if vector else None
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = Conv3x3(out, out)
        nn.init.zeros_(self.conv_2.weight)
        nn.init.zeros_(self.conv_2.bias)  # pyright: ignore[reportArgumentType]
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b c h w"], vector: Float[Tensor, "b d"] | None = None
    ) -> Float[Tensor, "b out h w"]:
        """Return the picture's features, modulated by the vector."""
        scale = shift = None
        if self.film is not None and vector is not None:
            scale, shift = self.film(vector).chunk(2, dim=1)
        h = self.norm_2(self.conv_1(self.norm_1(x)), scale, shift)
        return self.skip(x) + self.conv_2(self.dropout(h))
