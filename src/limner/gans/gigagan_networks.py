"""What a GigaGAN's networks are made of, and its synthesis network: styles and words to a picture.

    kernels      K = sum_i K_i softmax(W w + b)_i, which a style then modulates as StyleGAN2 does
    attention    x_n + g W_o sum_m P_nm q_m,  P_nm = softmax_m(-|q_n - q_m|^2 / sqrt(8 d)),  q = W x

A kernel of each picture's own is chosen from a bank, so that one network can paint very different
things (section 3.1). Convolution is linear, so it is one ordinary convolution of N times as many
channels, the picture once for each K_i, scaled by what is chosen; no grouped convolution is needed.

Dot products grow with the square of what goes in, and so does how fast their attention can change;
that of distances has a Lipschitz constant if keys are queries and values a linear function of them
(Kim, Papamakarios, Mnih, 2020. The Lipschitz constant of self-attention. arXiv:2006.04710, theorem
3.2). Values are the queries here, and W_o the linear function. With W of unit variance, two queries
of d numbers are at a squared distance of variance 8 d, hence the scale.

Whatever of this rounding could spoil is in float32 under autocast: distances, the softmax of both,
and the lengths of demodulated kernels. Distances are never rooted, whose slope at 0 is infinite.

Kang, Zhu, Zhang, Park, Shechtman, Paris, Park (2023). Scaling up GANs for text-to-image synthesis.
arXiv:2303.05511, section 3.1.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limner.contract.image import Images, ImageSpec
from limner.contract.noise import Noise
from limner.gans.adversarial_model import by_pixel
from limner.gans.modulation import Linear, ModulatedConv, equalise
from limner.gans.resampling import upsample
from limner.gans.stylegan2_networks import Layer, Styles
from limner.nn.attention import Attention

_GAIN = 0.3
"""Of what attention adds to a picture; the paper reduces it, and does not say how far."""


class AdaptiveConv(ModulatedConv):
    """A modulated convolution whose kernel is chosen from a bank by the style, softly.

    Args:
        channels, out, kernel, style, demodulate, doubling: of a `ModulatedConv`.
        bank: kernels to choose from; one is a `ModulatedConv`.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int,
        style: int,
        *,
        bank: int,
        demodulate: bool = True,
        doubling: bool = False,
    ) -> None:
        super().__init__(channels, out, kernel, style, demodulate=demodulate, doubling=doubling)
        self.weight = nn.Parameter(torch.randn(bank, out, channels, kernel, kernel))
        self.choose = Linear(style, bank)

    def forward(
        self, x: Float[Tensor, "b c h w"], w: Float[Tensor, "b style"]
    ) -> Float[Tensor, "b out hh ww"]:
        """As high and wide as x, or twice as much."""
        weight = self.weight * self.scale
        with torch.autocast(x.device.type, enabled=False):
            w = w.to(weight.dtype)
            s, choice = self.affine(w), self.choose(w).softmax(1)
        parts = [x * (s * share).to(x.dtype)[:, :, None, None] for share in choice.split(1, 1)]
        h = self.spread(torch.cat(parts, dim=1), weight.transpose(0, 1).flatten(1, 2))
        if not self.demodulate:
            return h
        with torch.autocast(x.device.type, enabled=False):
            length = kernel_lengths(weight, choice, s)
        return h / length.to(h.dtype)[:, :, None, None]


def kernel_lengths(
    weight: Float[Tensor, "n out c k k"], choice: Float[Tensor, "b n"], s: Float[Tensor, "b c"]
) -> Float[Tensor, "b out"]:
    """The length of each output map's kernel, sqrt(sum_ck (s_c sum_i a_i K_i,ock)^2 + 1e-8).

    The kernels themselves are not added up: their products with one another are enough.

    Args:
        weight: the bank.
        choice: a, how much of each kernel.
        s: what scales the channels that go in.
    """
    n = len(weight)
    products = (weight[:, None] * weight).sum((4, 5)).flatten(0, 1)
    pairs = (choice[:, :, None] * choice[:, None]).view(-1, n * n)
    squares = (pairs @ products.flatten(1)).view(-1, *products.shape[1:])
    return ((squares * s.square()[:, None]).sum(2) + 1e-8).sqrt()


def l2_attention(
    q: Float[Tensor, "b heads n d"],
    k: Float[Tensor, "b heads m d"],
    v: Float[Tensor, "b heads m d"],
) -> Float[Tensor, "b heads n d"]:
    """softmax_m(-|q_n - k_m|^2 / sqrt(8 d)) v_m, without |q_n|^2, which a softmax does not see."""
    nearness = 2 * q @ k.transpose(-2, -1) - k.square().sum(-1)[:, :, None]
    return (nearness / (8 * q.shape[-1]) ** 0.5).softmax(-1) @ v


class L2Attention(nn.Module):
    """Self-attention by distances, whose keys and values are its queries.

    Args:
        channels: of the picture.
        style: numbers of w, which is one more thing to look at; None for the picture alone.
        head_dim: of each head, or more where it does not divide the channels.
    """

    def __init__(self, channels: int, style: int | None = None, head_dim: int = 32) -> None:
        super().__init__()
        most = max(channels // head_dim, 1)
        self.heads = next(heads for heads in range(most, 0, -1) if channels % heads == 0)
        self.query = Linear(channels, channels)
        self.out = Linear(channels, channels)
        self.style = None if style is None else Linear(style, channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], w: Float[Tensor, "b style"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """x, and a little of what each position gathered."""
        positions = x.flatten(2).transpose(1, 2)
        gathered = self.gather(positions, w).transpose(1, 2).unflatten(2, x.shape[2:])
        return by_pixel(x + _GAIN * gathered)

    def gather(
        self, x: Float[Tensor, "b n c"], w: Float[Tensor, "b style"] | None = None
    ) -> Float[Tensor, "b n c"]:
        """W_o sum_m P_nm q_m for each position."""
        q = k = self.query(x)
        if self.style is not None and w is not None:
            k = torch.cat([q, self.style(w)[:, None]], dim=1)
        with torch.autocast(x.device.type, enabled=False):
            exact = self.query.weight.dtype
            q, k = (
                part.to(exact).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k)
            )
            gathered = l2_attention(q, k, k).transpose(1, 2).flatten(2)
        return self.out(gathered)


class Words(NamedTuple):
    """What a layer is told of the text.

    Args:
        tokens: a vector for each.
        mask: as `limner.nn.attention.Attention` takes it.
    """

    tokens: Float[Tensor, "b l d"]
    mask: Bool[Tensor, "b l"] | Float[Tensor, "b l"]


class Synthesis(nn.Module):
    """Styles and words to a picture: StyleGAN2's network, with banks of kernels and attention.

    Args:
        spec: what the pictures are.
        style: numbers of w.
        widths: channels of each size, from the smallest on.
        kernels: in the banks of each size, from the smallest on; sizes beyond have one.
        attention: pixels of the longer side up to which a size attends to itself and to words.
        token_dim: the length of a token; None where there are none.

    Attributes:
        layer_count: styles that it takes, as `stylegan2_networks.Synthesis` does.
    """

    def __init__(
        self,
        spec: ImageSpec,
        style: int,
        widths: Sequence[int],
        kernels: Sequence[int],
        attention: int,
        token_dim: int | None,
    ) -> None:
        super().__init__()
        k = len(widths) - 1
        banks = [*kernels, *[1] * len(widths)][: len(widths)]
        self.constant = nn.Parameter(torch.randn(widths[0], spec.height >> k, spec.width >> k))
        self.up_layers = nn.ModuleList(
            Layer(AdaptiveConv(n, m, 3, style, bank=bank, doubling=True), m)
            for (n, m), bank in zip(pairwise(widths), banks[1:])
        )
        self.layers = nn.ModuleList(
            Layer(AdaptiveConv(n, n, 3, style, bank=bank), n) for n, bank in zip(widths, banks)
        )
        self.self_attention, self.cross_attention = nn.ModuleDict(), nn.ModuleDict()
        for i, n in enumerate(widths):
            if max(spec.height, spec.width) >> (k - i) <= attention:
                self.self_attention[str(i)] = L2Attention(n, style)
                if token_dim:
                    self.cross_attention[str(i)] = Attention(n, token_dim=token_dim, site=f"up{i}")
        equalise(self.cross_attention)
        self.to_picture = nn.ModuleList(
            ModulatedConv(n, spec.channels, 1, style, demodulate=False) for n in widths
        )
        self.offset = nn.Parameter(torch.zeros(len(widths), spec.channels, 1, 1))
        self.layer_count = 2 * len(widths)

    def forward(self, w: Styles, words: Sequence[Words | None], noise: Noise | None) -> Images:
        """The picture; not confined to [-1, 1]."""
        return deque(self.sizes(w, words, noise), maxlen=1).pop()

    def sizes(
        self, w: Styles, words: Sequence[Words | None], noise: Noise | None
    ) -> Iterator[Images]:
        """The picture at each size, from the smallest on.

        Args:
            w: a style for each layer.
            words: what each size is told of the text; None where it has none.
            noise: where the layers' noise is drawn; None for none.
        """
        x = by_pixel(self.constant.expand(len(w), -1, -1, -1))
        picture = None
        for i, layer in enumerate(self.layers):
            if i:
                x = self.up_layers[i - 1](x, w[:, 2 * i - 1], noise)
            x = layer(x, w[:, 2 * i], noise)
            if str(i) in self.self_attention:
                x = self.self_attention[str(i)](x, w[:, 2 * i])
            if str(i) in self.cross_attention and (told := words[i]) is not None:
                x = self.cross_attention[str(i)](x, *told)
            own = self.to_picture[i](x, w[:, 2 * i + 1]) + self.offset[i]
            picture = own if picture is None else upsample(picture) + own
            yield picture
