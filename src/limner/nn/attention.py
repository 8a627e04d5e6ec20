"""Attention between the positions of a picture, and from them to tokens."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limner.nn.norm import group_norm

Weights = Float[Tensor, "b heads q k"]
Edit = Callable[[str, Weights], Weights]
"""A hook: (site, attention weights) -> attention weights; the network names the sites."""


class Attention(nn.Module):
    """Multi-head attention on a picture, with a residual connection; the identity at first, since
    the output projection starts at zero.

    Vaswani et al. (2017), arXiv:1706.03762. With `token_dim`, keys and values come from the tokens.
    The first key is then a learned one with value 0, so that a row whose tokens are all padding
    attends to nothing.

    Args:
        channels: the channels of the picture.
        head_dim: the size of each head, or more if it does not divide the channels.
        token_dim: the length of a token for cross-attention; None attends to the picture itself.
        site: the name of this layer for an `edit` hook.
        groups: the number of groups of channels, each normalised over all positions together; None
            normalises each position by itself.
    """

    def __init__(
        self,
        channels: int,
        head_dim: int = 32,
        token_dim: int | None = None,
        site: str = "",
        groups: int | None = None,
    ) -> None:
        super().__init__()
        most_heads = max(channels // head_dim, 1)
        self.heads = next(heads for heads in range(most_heads, 0, -1) if channels % heads == 0)
        self.site = site
        self.edit: Edit | None = None
        self.norm = nn.GroupNorm(groups, channels) if groups else nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(token_dim or channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.null = nn.Parameter(torch.zeros(channels)) if token_dim else None

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        tokens: Float[Tensor, "b l d"] | None = None,
        mask: Bool[Tensor, "b l"] | Float[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Return x plus the attention output of each position.

        Args:
            x: features.
            tokens: the tokens to attend to; x itself if None.
            mask: False for padding, which gets no attention; or the logarithm of each token's
                weight, so that a token of weight 2 counts like two tokens.
        """
        b, c, h, w = x.shape
        if isinstance(self.norm, nn.GroupNorm):
            positions = group_norm(self.norm, x).permute(0, 2, 3, 1).reshape(b, h * w, c)
        else:
            positions = self.norm(x.permute(0, 2, 3, 1).reshape(b, h * w, c))
        k, v = self.key_value(positions if tokens is None else tokens).chunk(2, dim=-1)
        if self.null is not None:
            k = torch.cat([self.null.to(k).expand(b, 1, c), k], dim=1)
            v = torch.cat([torch.zeros_like(v[:, :1]), v], dim=1)
            if mask is not None:
                mask = F.pad(mask, (1, 0), value=mask.dtype == torch.bool)
        q, k, v = (self._split(part) for part in (self.query(positions), k, v))
        attn_mask = None if mask is None else mask[:, None, None, :]
        if attn_mask is not None and attn_mask.dtype != torch.bool:
            attn_mask = attn_mask.to(q.dtype)
        if self.edit is None and not _fused_is_slow(q):
            values = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        else:
            logits = (q * q.shape[-1] ** -0.5) @ k.contiguous().transpose(-2, -1)
            if attn_mask is not None and attn_mask.dtype == torch.bool:
                logits = logits.masked_fill(~attn_mask, float("-inf"))
            elif attn_mask is not None:
                logits = logits + attn_mask
            weights = logits.softmax(-1)
            if self.edit is not None:
                weights = self.edit(self.site, weights)
            values = weights.to(v.dtype) @ v
        values = self.out(values.transpose(1, 2).reshape(b, h * w, c))
        return x + values.reshape(b, h, w, c).permute(0, 3, 1, 2)

    def _split(self, x: Float[Tensor, "b l c"]) -> Float[Tensor, "b heads l d"]:
        b, length, c = x.shape
        return x.view(b, length, self.heads, c // self.heads).transpose(1, 2)


def _fused_is_slow(q: Tensor) -> bool:
    """Return whether fused attention is slower than its parts: its bfloat16 gradient on a CPU takes
    6 times as long."""
    return q.device.type == "cpu" and q.dtype == torch.bfloat16
