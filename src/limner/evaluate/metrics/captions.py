"""Do pictures show what their prompts say? Retrieval of each one's own caption out of a gallery.

    subject              pictures painted from the captions
    real                 the real pictures of these captions: what no model can be asked to exceed
    shuffled captions    the subject's pictures with one another's captions: chance
    nearest in training  for each caption the training picture whose caption is nearest to it: what
                         a model that gives back its training pictures would read

The gallery are the captions of the first pictures, one of each thing (variants of one thing, a hand
in six skin tones, would be taken for one another by anybody).
"""

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limner.contract.text import Tokenizer, text_spec, word_table
from limner.evaluate.extractors.extractor import ImageText
from limner.evaluate.metrics.fidelity import OfFeatures
from limner.evaluate.metrics.retrieval import retrieval
from limner.evaluate.metrics.statistics import shuffled
from limner.evaluate.passes import BLOCK, Observer, Seen
from limner.evaluate.picture_sets import PictureSet, Pixels, RealPictures
from limner.evaluate.report import SUBJECT, Number

GALLERY = 200
"""Captions of a gallery, at most."""
_LEAST = 10


class Retrieval(OfFeatures):
    """R@1, R@5 and the median rank of each picture's own caption."""

    name = "retrieval"
    summary = "how often a picture's own caption is the nearest, or among the 5 nearest"
    least = _LEAST

    def refusal(self) -> str:
        """No captions, an extractor that does not read, or too small a gallery."""
        if why := super().refusal():
            return why
        s, first = self.setting, torch.arange(1)
        if not isinstance(s.extractor, ImageText):
            return f"{self.extractor.name} reads no captions; emoji-judge does"
        if s.reference.captions(first) is None:
            return f"{s.reference.name} has no captions"
        if s.subject.captions(first) is None:
            return f"{s.subject.name} was given no captions"
        for pictures, found in zip((s.subject, s.reference), self.galleries):
            if len(found) < _LEAST:
                return (
                    f"it needs captions of at least {_LEAST} different things, and the first "
                    f"{len(s.subject):,} of {pictures.name} have {len(found)}"
                )
        return ""

    @cached_property
    def galleries(self) -> tuple[dict[int, str], dict[int, str]]:
        """Of the subject, and of as many pictures of the reference: number -> caption."""
        s = self.setting
        return gallery(s.subject), gallery(s.reference.first(len(s.subject)))

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Nothing beyond the pictures themselves."""
        return []

    def numbers(self, seen: Seen) -> list[Number]:
        """Of the subject, and of the three rows that say what it is worth."""
        s = self.setting
        asked, said = self.galleries
        captions = list(asked.values())
        painted = self.similarity(seen.pixels(s.subject, asked), captions)
        real = self.similarity(s.reference.pictures(torch.tensor(list(said))), list(said.values()))
        own = torch.arange(len(captions))
        rows = [
            (SUBJECT, painted, own),
            (f"real ({s.reference.name})", real, torch.arange(len(said))),
            ("shuffled captions", painted, _others(len(captions))),
        ]
        repeated = None if s.training is None or s.training.dataset.endless else s.training
        if repeated and repeated.captions(torch.arange(1)):
            found = repeated.pictures(nearest(repeated, captions))
            rows.append(("nearest in training", self.similarity(found, captions), own))
        numbers: list[Number] = []
        for row, similarity, mine in rows:
            r1, r5, rank, size = retrieval(similarity, mine)
            shared: dict[str, Any] = {"row": row, "protocol": f"among {size} captions"}
            for name, value, better in (
                ("R@1", r1, "higher"), ("R@5", r5, "higher"), ("median rank", rank, "lower"),
            ):  # fmt: skip
                numbers.append(self.number(name, value, len(mine), better=better, **shared))
        return numbers

    def similarity(self, pixels: Pixels, captions: list[str]) -> Float[Tensor, "n k"]:
        """Of each picture to each caption, to the judge."""
        judge = self.extractor
        assert isinstance(judge, ImageText)
        text = Tokenizer(judge.text).encode(captions)
        parts = [judge.similarity(some, text).cpu() for some in pixels.split(BLOCK)]
        return torch.cat(parts)


def gallery(pictures: PictureSet) -> dict[int, str]:
    """Captions of a set's first pictures, one of each thing, by the number of the picture."""
    numbers = torch.arange(len(pictures))
    groups, captions = pictures.groups(numbers), pictures.captions(numbers) or []
    things = captions if groups is None else groups.tolist()
    found: dict[int, str] = {}
    before: set[object] = set()
    for number, (thing, caption) in enumerate(zip(things, captions)):
        if not before & {thing, caption} and len(found) < GALLERY:
            found[number] = caption
            before |= {thing, caption}
    return found


def nearest(real: RealPictures, captions: list[str]) -> Int[Tensor, "n"]:
    """For each caption the number of the real picture whose caption is nearest to it in meaning."""
    theirs = real.captions(torch.arange(len(real)))
    assert theirs is not None
    asked, known = _meaning(captions), _meaning(theirs)
    return torch.cat([(some @ known.T).argmax(1) for some in asked.split(BLOCK)])


def _meaning(texts: list[str]) -> Float[Tensor, "n d"]:
    """The mean vector of a text's words, of length 1; 0 where it has none."""
    spec = text_spec()
    table, scale = word_table(spec)
    tokens = Tokenizer(spec).encode(texts)
    meant = torch.zeros(len(texts), table.shape[1])
    for some in range(0, len(texts), 1024):
        row = tokens[some : some + 1024]
        words = table[row].float() * (scale[row] * (row > 0))[..., None]  # 0 is padding
        meant[some : some + 1024] = F.normalize(words.sum(1), dim=1)
    return meant


def _others(n: int) -> Int[Tensor, "n"]:
    """For each of n another one, at random."""
    order = shuffled(n, 0)
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    return other
