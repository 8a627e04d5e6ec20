"""PixelCNN: masked convolutions, which compute the likelihoods of all pixels at once.

van den Oord, Kalchbrenner, Kavukcuoglu (2016). Pixel recurrent neural networks. arXiv:1601.06759,
sections 3.3 to 3.6 and table 1.

Kept: a 7 x 7 convolution with mask A, residual blocks of 1 x 1, 3 x 3 and 1 x 1 convolutions with
mask B on 2 h features (figure 5, left), two 1 x 1 convolutions, a softmax over the levels (a
sigmoid for two levels); each channel depends on those before it. The receptive field of masked
kernels has a blind spot: pixels above that lie further to the right than rows go up are never seen.
So many rows can be painted at once, each 4 columns behind the row above it. Different: labels and
captions shift the features of each block, as in Gated PixelCNN.
"""

from jaxtyping import Float
from torch import Tensor, nn

from limner.autoregressive.autoregressive_model import AutoregressiveModel
from limner.autoregressive.causal_convolution import CausalConv2d, Walk
from limner.contract.image import ImageSpec
from limner.contract.options import Count, Share
from limner.contract.registry import Paper, register
from limner.maths.pixel_distributions import softmax_distribution


class Block(nn.Module):
    """x + conv 1 x 1 (relu conv 3 x 3 (relu conv 1 x 1 (relu x))), all with mask B."""

    def __init__(self, h: int, channels: int, vector: int) -> None:
        super().__init__()
        self.reduce = CausalConv2d(2 * h, h, channels=channels)
        self.conv = CausalConv2d(h, h, rows=2, left=1, right=1, channels=channels)
        self.expand = CausalConv2d(h, 2 * h, channels=channels)
        self.condition_bias = nn.Linear(vector, h, bias=False) if vector else None

    def forward(
        self, x: Float[Tensor, "*at f"], vector: Tensor | None, walk: Walk | None
    ) -> Float[Tensor, "*at f"]:
        """Return features of the same size."""
        h = self.conv(self.reduce(x.relu(), walk).relu_(), walk)
        if self.condition_bias is not None:
            h = h + self.condition_bias(vector)
        return x + self.expand(h.relu_(), walk)


class Network(nn.Module):
    """The network of table 1, which returns theta of every pixel.

    Args:
        channels: channels of the picture.
        size: dimension of theta.
        h, blocks, top: see `PixelCNN`.
        vector: length of the condition's vector; 0 without one.
    """

    def __init__(
        self, channels: int, size: int, h: int, blocks: int, top: int, vector: int
    ) -> None:
        super().__init__()
        self.conv_in = CausalConv2d(channels, 2 * h, 4, 3, 3, "A", channels)
        self.blocks = nn.ModuleList(Block(h, channels, vector) for _ in range(blocks))
        self.top = CausalConv2d(2 * h, top, channels=channels)
        self.conv_out = CausalConv2d(top, size, channels=channels)

    def forward(
        self, x: Float[Tensor, "b h w c"], vector: Tensor | None, walk: Walk | None = None
    ) -> Float[Tensor, "..."]:
        """Return theta of all pixels, or of the walk's front."""
        h = self.conv_in(x, walk)
        for block in self.blocks:
            h = block(h, vector, walk)
        return self.conv_out(self.top(h.relu_(), walk).relu_(), walk)


@register(
    "pixelcnn",
    family="autoregressive",
    paper=Paper(
        "Pixel recurrent neural networks",
        "van den Oord, Kalchbrenner, Kavukcuoglu",
        2016,
        "1601.06759",
    ),
    tiny={"h": 6, "blocks": 1, "top": 6},
    train={"lr": 1e-3, "clip": 1.0},
)
class PixelCNN(AutoregressiveModel):
    """PixelCNN: exact likelihood with masked convolutions.

    Args:
        spec: specification of the images.
        h: half the features of the residual blocks.
        blocks: number of residual blocks.
        top: features of the last hidden layer.
        condition_dropout: probability of hiding the condition in training.
    """

    lag = 4  # the first kernel reaches 3 columns to the right in the row above, others 1 a row

    def __init__(
        self,
        spec: ImageSpec,
        h: Count = 32,
        blocks: Count = 7,
        top: Count = 32,
        condition_dropout: Share = 0.1,
    ) -> None:
        super().__init__(spec, 2 * h, condition_dropout)
        self.law = softmax_distribution(spec)
        self.network = Network(spec.channels, self.law.size, h, blocks, top, self.vector_size)
