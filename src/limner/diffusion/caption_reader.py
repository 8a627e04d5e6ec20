"""A text encoder that has learnt what captions say, before any picture is painted from them.

Saharia et al. (2022). Photorealistic text-to-image diffusion models with deep language
understanding. arXiv:2205.11487.

Which of two things is red, and which is left of the other, matters for little of a painter's loss.
An encoder that learns together with its painter may therefore stay a bag of words for a million
pictures. The paper takes one that was trained on text alone, and does not train it further. So it
is here:

    q = Embedding(kind) or Embedding(colour)
    a = q + attention from q to the tokens of the caption, then a perceptron
    log p(colour | kind), log p(column | kind), log p(row | kind), log p(count | kind),
    log p(side of the others, across and down | kind), log p(kind | colour): linear in a,
    log p(how many things): linear in the text's vector

which asks of tokens what the cross-attention of a painter asks. Truth is given by the conditioning
images of `data.hint=objects`; pictures are not looked at.

    limner train recipe:caption-reader --run runs/reader
    limner train ... train.init.text=runs/reader \\
        train.frozen=text.project,text.positions,text.layers,text.norm

Kept: the encoder stays frozen while the painter learns. Different: it is small, and learns from
true descriptions of scenes in place of other text.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, ImageSpec
from limner.contract.layout import COLOURS, NONE, Objects, is_layout, read_layout
from limner.contract.model import Learner, Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, Natural
from limner.contract.registry import Paper, register
from limner.nn.attention import Attention
from limner.nn.text import Encoded, TextEncoder

_SIDES = ("neither", "before", "behind")  # of all others


@register(
    "caption-reader",
    family="diffusion",
    paper=Paper(
        "Photorealistic text-to-image diffusion models with deep language understanding",
        "Saharia et al.",
        2022,
        "2205.11487",
    ),
    tiny={"words": 16, "layers": 1, "cells": 2},
    train={"lr": 1e-3, "betas": (0.9, 0.98), "weight_decay": 0.01, "batch": 256, "clip": 1.0},
)
class CaptionReader(Learner):
    """A text encoder that learns which thing has which colour, stands where, and how often.

    Args:
        spec: what the data are; with captions, and with objects as conditioning images.
        words: the length of a token's vector; that of painters with a U-Net is 192, or four times
            their first width if that is less.
        layers: of the transformer.
        cells: columns and rows that places are told by.

    Raises:
        LimnerError: the data have no captions, or do not say what stands where.
    """

    takes = ("text", "hint")

    def __init__(
        self, spec: ImageSpec, words: Count = 192, layers: Natural = 2, cells: Count = 8
    ) -> None:
        super().__init__()
        if spec.text is None or spec.hint is None or not is_layout(spec.hint):
            raise LimnerError(
                "this model learns what captions say of the objects in pictures; give "
                "scenes data.hint=objects"
            )
        self.kinds, self.cells, self.most = len(spec.hint.labels), cells, spec.hint.width
        self.text = TextEncoder(spec.text, words, words, layers)
        self.kind = nn.Embedding(self.kinds, words)
        self.colour = nn.Embedding(len(COLOURS), words)
        self.attention = Attention(words, token_dim=words, site="reader.cross")
        nn.init.normal_(self.attention.out.weight, std=words**-0.5)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(words), nn.Linear(words, 2 * words), nn.GELU(), nn.Linear(2 * words, words)
        )
        self.norm = nn.LayerNorm(words)
        self.of_kind = nn.ModuleDict(
            {
                "colour": nn.Linear(words, 1 + len(COLOURS)),
                "column": nn.Linear(words, cells),
                "row": nn.Linear(words, cells),
                "count": nn.Linear(words, self.most),
                "across": nn.Linear(words, len(_SIDES)),
                "down": nn.Linear(words, len(_SIDES)),
            }
        )
        self.of_colour = nn.Linear(words, self.kinds)
        self.of_text = nn.Linear(words, 1 + self.most)

    def formula(self) -> list[str]:
        """What is predicted from what."""
        return [
            "a = q + attention(q, tokens), q of a kind or a colour",
            "loss: -log p(colour, column, row, count, sides | kind) - log p(kind | colour)",
            "      -log p(number | vector of the text)",
        ]

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """One move: the sum of the losses, each a mean over a picture's objects."""
        text, image = batch.c.text, batch.c.image
        assert text is not None and image is not None
        logs = self.losses(text, read_layout(image, self.kinds))
        yield Turn(
            torch.stack([*logs.values()]).sum(),
            logs={name: value.detach() for name, value in logs.items()},
        )

    def losses(self, text: Int[Tensor, "b l"], objects: Objects) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropies in nats, by what is predicted."""
        told, kind, colour = self.text(text), objects.kind.clamp(min=0), objects.colour
        there = objects.kind != NONE
        coloured = there & (colour != NONE)
        centre = (objects.box[..., :2] + objects.box[..., 2:]) / 2
        column, row = (centre * self.cells).long().clamp(0, self.cells - 1).unbind(-1)
        alike = (objects.kind[:, :, None] == objects.kind[:, None, :]).sum(-1)
        truth = {"colour": colour + 1, "column": column, "row": row, "count": alike - 1}
        truth |= dict(zip(("across", "down"), sides(centre, there).unbind(-1)))
        a = self._asked(self.kind(kind), told)
        logs = {
            name: _cross_entropy(head(a), truth[name], there) for name, head in self.of_kind.items()
        }
        a = self._asked(self.colour(colour.clamp(min=0)), told)
        number = F.cross_entropy(self.of_text(told.vector).float(), there.sum(1))
        return logs | {"kind": _cross_entropy(self.of_colour(a), kind, coloured), "number": number}

    def _asked(self, q: Float[Tensor, "b n d"], told: Encoded) -> Float[Tensor, "b n d"]:
        """What the caption says about each query."""
        picture = q.transpose(1, 2)[..., None]  # n pixels high, one wide
        a = self.attention(picture, told.tokens, told.mask)[..., 0].transpose(1, 2)
        return self.norm(a + self.perceptron(a))


def sides(centre: Float[Tensor, "b n 2"], there: Bool[Tensor, "b n"]) -> Int[Tensor, "b n 2"]:
    """On which side of all others each object is, across and down: 1 before them, 2 behind them, 0
    neither, as where there is no other."""
    others = there[:, None, :] & ~torch.eye(there.shape[1], dtype=torch.bool, device=there.device)
    gap = centre[:, None, :] - centre[:, :, None]  # "b n n 2": from each to each other
    known = others[..., None]
    before = ((gap > 0) | ~known).all(2) & known.any(2)
    behind = ((gap < 0) | ~known).all(2) & known.any(2)
    return before + 2 * behind


def _cross_entropy(
    logits: Float[Tensor, "b n k"], truth: Int[Tensor, "b n"], there: Bool[Tensor, "b n"]
) -> Float[Tensor, ""]:
    """The mean over pictures of the mean over those objects that are there."""
    each = F.cross_entropy(logits.float().transpose(1, 2), truth, reduction="none")
    return ((each * there).sum(1) / there.sum(1).clamp(min=1)).mean()
