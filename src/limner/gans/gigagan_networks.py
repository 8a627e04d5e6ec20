"""Building blocks of GigaGAN's networks, and its synthesis network.

    kernels      K = sum_i K_i softmax(W w + b)_i, then modulated by a style as in StyleGAN2
    attention    x_n + g W_o sum_m P_nm q_m,  P_nm = softmax_m(-|q_n - q_m|^2 / sqrt(8 d)),  q = W x

Each picture has its own kernel, a weighted sum of the kernels in a bank, so that one network can
generate very different things (section 3.1). Convolution is linear, so this takes one ordinary
convolution of N times as many channels: the picture once for each K_i, scaled by the weight of K_i.
No grouped convolution is needed.

Dot-product attention is not Lipschitz, since dot products grow with the square of the input.
Attention by distances has a Lipschitz constant if keys are the queries and values a linear function
of them (Kim, Papamakarios, Mnih, 2020. The Lipschitz constant of self-attention. arXiv:2006.04710,
theorem 3.2). Here values are the queries, and W_o is the linear function. With W of unit variance,
the squared distance of two queries of dimension d has a variance of 8 d, hence the scale.

Operations that are sensitive to rounding stay in float32 under autocast: distances, both softmaxes,
and the lengths of demodulated kernels. The square root of distances is never taken, because its
slope at 0 is infinite.

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
from limner.gans.modulation import EqualisedLinear, ModulatedConv, equalise
from limner.gans.resampling import upsample
from limner.gans.stylegan2_networks import Layer, Styles
from limner.nn.attention import Attention

_GAIN = 0.3
"""Scale of the attention's output; the paper scales it down, but does not say by how much."""


class AdaptiveConv(ModulatedConv):
    """A modulated convolution with a kernel that the style selects softly from a bank.

    Args:
        channels, out, kernel, style, demodulate, doubling: see `ModulatedConv`.
        bank: number of kernels to select from; with 1 it is a `ModulatedConv`.
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
        self.choose = EqualisedLinear(style, bank)

    def forward(
        self, x: Float[Tensor, "b c h w"], w: Float[Tensor, "b style"]
    ) -> Float[Tensor, "b out hh ww"]:
        """Return features as high and wide as x, or twice as much."""
        weight = self.weight * self.scale
        with torch.autocast(x.device.type, enabled=False):
            w = w.to(weight.dtype)
            s, choice = self.affine(w), self.choose(w).softmax(1)
        parts = [x * (s * a).to(x.dtype)[:, :, None, None] for a in choice.split(1, 1)]
        h = self.convolve_with(torch.cat(parts, dim=1), weight.transpose(0, 1).flatten(1, 2))
        if not self.demodulate:
            return h
        with torch.autocast(x.device.type, enabled=False):
            length = kernel_lengths(weight, choice, s)
        return h / length.to(h.dtype)[:, :, None, None]


def kernel_lengths(
    weight: Float[Tensor, "n out c k k"], choice: Float[Tensor, "b n"], s: Float[Tensor, "b c"]
) -> Float[Tensor, "b out"]:
    """Return the length of each output map's kernel, sqrt(sum_ck (s_c sum_i a_i K_i,ock)^2 + 1e-8).

    It is computed from inner products of the bank's kernels, without adding up the kernels.

    Args:
        weight: the bank of kernels.
        choice: a, the weight of each kernel.
        s: scales of the input channels.
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
    """Return softmax_m(-|q_n - k_m|^2 / sqrt(8 d)) v_m; |q_n|^2 cancels in the softmax."""
    logits = 2 * q @ k.transpose(-2, -1) - k.square().sum(-1)[:, :, None]
    return (logits / (8 * q.shape[-1]) ** 0.5).softmax(-1) @ v


class L2Attention(nn.Module):
    """Self-attention by distances, where keys and values are the queries.

    Args:
        channels: channels of the picture.
        style: dimension of w, which is one more key and value; None for the picture alone.
        head_dim: dimension of each head; larger if it does not divide the channels.
    """

    def __init__(self, channels: int, style: int | None = None, head_dim: int = 32) -> None:
        super().__init__()
        most_heads = max(channels // head_dim, 1)
        self.heads = next(heads for heads in range(most_heads, 0, -1) if channels % heads == 0)
        self.query = EqualisedLinear(channels, channels)
        self.out = EqualisedLinear(channels, channels)
        self.style = None if style is None else EqualisedLinear(style, channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], w: Float[Tensor, "b style"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Return x plus the scaled output of attention."""
        positions = x.flatten(2).transpose(1, 2)
        values = self.gather(positions, w).transpose(1, 2).unflatten(2, x.shape[2:])
        return by_pixel(x + _GAIN * values)

    def gather(
        self, x: Float[Tensor, "b n c"], w: Float[Tensor, "b style"] | None = None
    ) -> Float[Tensor, "b n c"]:
        """Return W_o sum_m P_nm q_m for each position."""
        q = k = self.query(x)
        if self.style is not None and w is not None:
            k = torch.cat([q, self.style(w)[:, None]], dim=1)
        with torch.autocast(x.device.type, enabled=False):
            dtype = self.query.weight.dtype
            q, k = (
                part.to(dtype).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k)
            )
            values = l2_attention(q, k, k).transpose(1, 2).flatten(2)
        return self.out(values)


class WordVectors(NamedTuple):
    """The words of a text, for cross-attention.

    Args:
        tokens: the vectors of the tokens.
        mask: mask of the tokens, see `limner.nn.attention.Attention`.
    """

    tokens: Float[Tensor, "b l d"]
    mask: Bool[Tensor, "b l"] | Float[Tensor, "b l"]


class Synthesis(nn.Module):
    """Synthesis network: StyleGAN2's with banks of kernels, self-attention, and attention to words.

    Args:
        spec: specification of the images.
        style: dimension of w.
        widths: channels at each size, smallest first.
        kernels: kernels in the banks of each size, smallest first; further sizes have one.
        attention: largest longer side, in pixels, with self-attention and attention to words.
        token_dim: dimension of a token; None without texts.

    Attributes:
        layer_count: number of styles that it takes, as in `stylegan2_networks.Synthesis`.
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

    def forward(
        self, w: Styles, words: Sequence[WordVectors | None], noise: Noise | None
    ) -> Images:
        """Return the picture, not limited to [-1, 1]."""
        return deque(self.sizes(w, words, noise), maxlen=1).pop()

    def sizes(
        self, w: Styles, words: Sequence[WordVectors | None], noise: Noise | None
    ) -> Iterator[Images]:
        """Yield the picture at each size, smallest first.

        Args:
            w: a style for each layer.
            words: the words that each size attends to; None for none.
            noise: random streams of the layers' noise; None for no noise.
        """
        x = by_pixel(self.constant.expand(len(w), -1, -1, -1))
        picture = None
        for i, layer in enumerate(self.layers):
            if i:
                x = self.up_layers[i - 1](x, w[:, 2 * i - 1], noise)
            x = layer(x, w[:, 2 * i], noise)
            if str(i) in self.self_attention:
                x = self.self_attention[str(i)](x, w[:, 2 * i])
            if str(i) in self.cross_attention and (size_words := words[i]) is not None:
                x = self.cross_attention[str(i)](x, *size_words)
            layer_picture = self.to_picture[i](x, w[:, 2 * i + 1]) + self.offset[i]
            picture = layer_picture if picture is None else upsample(picture) + layer_picture
            yield picture
