"""A text encoder that learns what captions say, before a model is trained to paint from them.

Saharia et al. (2022). Photorealistic text-to-image diffusion models with deep language
understanding. arXiv:2205.11487.

Which of two things is red, and which is left of the other, changes the loss of a generator only a
little. So an encoder that is trained together with its generator may stay a bag of words for a
million pictures. The paper takes an encoder that was trained on text alone, and does not train it
further. Here the encoder is trained first, too:

    q = Embedding(kind) or Embedding(colour)
    a = q + attention from q to the tokens of the caption, then a perceptron
    log p(colour | kind), log p(column | kind), log p(row | kind), log p(count | kind),
    log p(side of the others, across and down | kind), log p(kind | colour): linear in a,
    log p(how many things): linear in the text's vector

These queries use tokens in the same way as the cross-attention of a generator. The targets come
from the conditioning images of `data.hint=objects`; pictures are not used.

    limner train recipe:caption-reader --run runs/reader
    limner train ... train.init.text=runs/reader \\
        train.frozen=text.project,text.positions,text.layers,text.norm

Kept: the encoder is frozen while the generator learns. Different: it is small, and learns from true
descriptions of scenes instead of other text.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, ImageSpec
from limner.contract.layout import COLOURS, NO_OBJECT, Objects, is_layout, read_layout
from limner.contract.model import Learner, Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, Natural
from limner.contract.registry import Paper, register
from limner.nn.attention import Attention
from limner.nn.text import Encoded, TextEncoder

_SIDE_NAMES = ("neither", "before", "behind")  # position relative to all other objects


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
    """Text encoder that learns the colours, places and numbers of objects from captions.

    Args:
        spec: specification of the data, with captions, and with objects as conditioning images.
        words: length of a token's vector; generators with a U-Net have 192, or four times their
            first width if that is less.
        layers: number of layers of the transformer.
        cells: number of columns and of rows in which places are given.

    Raises:
        LimnerError: the data have no captions, or no objects as conditioning images.
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
        self.kinds, self.cells, self.max_count = len(spec.hint.labels), cells, spec.hint.width
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
                "count": nn.Linear(words, self.max_count),
                "across": nn.Linear(words, len(_SIDE_NAMES)),
                "down": nn.Linear(words, len(_SIDE_NAMES)),
            }
        )
        self.of_colour = nn.Linear(words, self.kinds)
        self.of_text = nn.Linear(words, 1 + self.max_count)

    def formula(self) -> list[str]:
        """Return formulas of the predictions and the loss."""
        return [
            "a = q + attention(q, tokens), q of a kind or a colour",
            "loss: -log p(colour, column, row, count, sides | kind) - log p(kind | colour)",
            "      -log p(number | vector of the text)",
        ]

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn: the sum of the losses, each a mean over a picture's objects."""
        text, image = batch.c.text, batch.c.image
        assert text is not None and image is not None
        logs = self.losses(text, read_layout(image, self.kinds))
        yield Turn(
            torch.stack([*logs.values()]).sum(),
            logs={name: value.detach() for name, value in logs.items()},
        )

    def losses(self, text: Int[Tensor, "b l"], objects: Objects) -> dict[str, Float[Tensor, ""]]:
        """Return cross-entropies in nats, by the name of what is predicted."""
        encoded, kind, colour = self.text(text), objects.kind.clamp(min=0), objects.colour
        present = objects.kind != NO_OBJECT
        coloured = present & (colour != NO_OBJECT)
        centre = (objects.box[..., :2] + objects.box[..., 2:]) / 2
        column, row = (centre * self.cells).long().clamp(0, self.cells - 1).unbind(-1)
        counts = (objects.kind[:, :, None] == objects.kind[:, None, :]).sum(-1)
        targets = {"colour": colour + 1, "column": column, "row": row, "count": counts - 1}
        targets |= dict(zip(("across", "down"), sides(centre, present).unbind(-1)))
        a = self._answers(self.kind(kind), encoded)
        logs = {
            name: _cross_entropy(head(a), targets[name], present)
            for name, head in self.of_kind.items()
        }
        a = self._answers(self.colour(colour.clamp(min=0)), encoded)
        number = F.cross_entropy(self.of_text(encoded.vector).float(), present.sum(1))
        return logs | {"kind": _cross_entropy(self.of_colour(a), kind, coloured), "number": number}

    def sides(self, text: Int[Tensor, "b l"], kind: Int[Tensor, "b n"]) -> Int[Tensor, "b n 2"]:
        """Return the most likely sides of objects of some kinds, across and down, see `sides`."""
        a = self._answers(self.kind(kind.clamp(min=0)), self.text(text))
        return torch.stack([self.of_kind[name](a).argmax(-1) for name in ("across", "down")], -1)

    def _answers(self, q: Float[Tensor, "b n d"], encoded: Encoded) -> Float[Tensor, "b n d"]:
        """Return what the caption says about each query."""
        picture = q.transpose(1, 2)[..., None]  # n pixels high, one wide
        a = self.attention(picture, encoded.tokens, encoded.mask)[..., 0].transpose(1, 2)
        return self.norm(a + self.perceptron(a))


def sides(centre: Float[Tensor, "b n 2"], present: Bool[Tensor, "b n"]) -> Int[Tensor, "b n 2"]:
    """Return the side of each object relative to all others, across and down.

    It is 1 before all others, 2 behind them, and 0 otherwise or if there is no other object.
    """
    others = present[:, None, :] & ~torch.eye(
        present.shape[1], dtype=torch.bool, device=present.device
    )
    gap = centre[:, None, :] - centre[:, :, None]  # "b n n 2": from each to each other
    is_pair = others[..., None]
    before = ((gap > 0) | ~is_pair).all(2) & is_pair.any(2)
    behind = ((gap < 0) | ~is_pair).all(2) & is_pair.any(2)
    return before + 2 * behind


def _cross_entropy(
    logits: Float[Tensor, "b n k"], target: Int[Tensor, "b n"], present: Bool[Tensor, "b n"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy, averaged over a picture's present objects, then over pictures."""
    loss = F.cross_entropy(logits.float().transpose(1, 2), target, reduction="none")
    return ((loss * present).sum(1) / present.sum(1).clamp(min=1)).mean()
