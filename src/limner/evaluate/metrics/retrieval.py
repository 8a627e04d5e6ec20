"""Retrieval: do pictures show what their captions say?

Each picture's own caption is searched for in a gallery of captions.

A judge of images and texts scores how similar each picture is to each caption of the gallery. The
rank of a picture's own caption is 1 if it is the most similar one; R@k is the share of pictures
with a rank of at most k. Chance is k over the size of the gallery, which is reported with the
number. Ties count against the model: the rank is 1 + the number of other captions that are at least
as similar. So a judge that gives every pair the same score finds nothing.

    subject              pictures painted from the captions
    real                 the real pictures of these captions: the upper limit for a model
    shuffled captions    the subject's pictures with exchanged captions: chance
    nearest in training  for each caption, the training picture with the nearest caption: the value
                         of a model that reproduces its training pictures

The gallery contains the captions of the first pictures, one of each thing. Variants of one thing,
such as a hand in six skin tones, look the same to people, too.

Reference:
    Xu et al. (2018). AttnGAN: Fine-Grained Text to Image Generation with Attentional Generative
    Adversarial Networks. arXiv:1711.10485. (R-precision, with a gallery of 100 captions.)
"""

from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.registry import Paper
from limner.contract.text import Tokenizer, text_spec, word_table
from limner.evaluate.extractors.extractor import ImageText
from limner.evaluate.metric import FeatureMetric, NotApplicable, metric
from limner.evaluate.metrics.statistics import (
    IntervalEstimate,
    bootstrap_samples,
    checked_features,
    percentiles,
    random_order,
    share_interval,
)
from limner.evaluate.passes import BLOCK_PICTURES, Observations, Observer
from limner.evaluate.picture_sets import PictureSet, Pixels, RealPictures
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper(
    "AttnGAN: fine-grained text to image generation with attentional generative adversarial "
    "networks",
    "Xu, Zhang, Huang, Zhang, Gan, Huang, He",
    2018,
    "1711.10485",
)
GALLERY = 200
"""The largest number of captions in a gallery."""
_MIN_PICTURES = 10
_K = 5


class Ranking(NamedTuple):
    """R@1, R@5 and the median rank, with intervals over the pictures.

    Shares have Wilson's interval, the median rank a bootstrap interval.
    """

    r1: IntervalEstimate
    r5: IntervalEstimate
    median_rank: IntervalEstimate
    gallery: int


def retrieval(
    similarity: Float[Tensor, "n k"], targets: Int64[Tensor, "n"], seed: int = 0
) -> Ranking:
    """Compute how well each picture's own caption is retrieved from a gallery.

    Args:
        similarity: the similarity of each picture to each caption.
        targets: the column of each picture's own caption.
        seed: the seed of the bootstrap's 1,000 draws.

    Raises:
        LimnerError: at most 5 captions, where R@5 is always 1; no picture; a column that does not
            exist; NaN or infinite similarities.
    """
    n, gallery = similarity.shape
    if gallery <= _K:
        raise LimnerError(f"R@{_K} needs a gallery of more than {_K} captions, not {gallery}")
    table = checked_features(similarity, 1, "retrieval")
    if len(targets) != n or targets.min() < 0 or targets.max() >= gallery:
        raise LimnerError(f"each of {n} pictures has its own caption among the gallery's {gallery}")
    rank = ranks(table, targets.cpu())
    draws = rank[bootstrap_samples(n, seed)]
    return Ranking(
        share_interval(rank <= 1),
        share_interval(rank <= _K),
        percentiles(float(rank.quantile(0.5)), draws.quantile(0.5, dim=1)),
        gallery,
    )


def ranks(similarity: Float[Tensor, "n k"], targets: Int64[Tensor, "n"]) -> Float64[Tensor, "n"]:
    """Compute 1 + the number of other captions at least as similar to the picture as its own."""
    own_similarity = similarity.gather(1, targets[:, None])
    return (similarity >= own_similarity).sum(1).double()  # the own caption counts as the 1


@metric("retrieval", paper=PAPER)
class Retrieval(FeatureMetric):
    """R@1, R@5 and the median rank of pictures' own captions."""

    summary = "how often a picture's own caption is the nearest, or among the 5 nearest"
    reads = ("captions", "features")
    better = "higher"
    min_pictures = _MIN_PICTURES
    redrawn = ("subject",)

    @cached_property
    def galleries(self) -> tuple[dict[int, str], dict[int, str]]:
        """Galleries of the subject and of as many real pictures: picture's number -> caption."""
        s = self.setting
        return gallery(s.subject), gallery(s.reference.first(len(s.subject)))

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Check whether the metric applies; it needs no observer, only the pictures themselves.

        Raises:
            NotApplicable: there are no captions, the extractor does not read captions, or the
                gallery is too small.
        """
        super().needs()
        s, first = self.setting, torch.arange(1)
        if not isinstance(s.extractor, ImageText):
            raise NotApplicable(f"{self.extractor.name} does not read captions; emoji-judge does")
        if s.reference.captions(first) is None:
            raise NotApplicable(f"{s.reference.name} has no captions")
        if s.subject.captions(first) is None:
            raise NotApplicable(f"{s.subject.name} was given no captions")
        for pictures, captions in zip((s.subject, s.reference), self.galleries):
            if len(captions) < _MIN_PICTURES:
                raise NotApplicable(
                    f"it needs captions of at least {_MIN_PICTURES} different things, and the "
                    f"first {len(s.subject):,} of {pictures.name} have {len(captions)}"
                )
        return []

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute the numbers of the subject, and of the three rows to compare it with."""
        s = self.setting
        subject_gallery, real_gallery = self.galleries
        captions = list(subject_gallery.values())
        subject = self.similarity(observations.pixels(s.subject, subject_gallery), captions)
        real = self.similarity(
            s.reference.pictures(torch.tensor(list(real_gallery))), list(real_gallery.values())
        )
        columns = torch.arange(len(captions))
        rows = [
            (SUBJECT, subject, columns),
            (f"real ({s.reference.name})", real, torch.arange(len(real_gallery))),
            ("shuffled captions", subject, _other_rows(len(captions))),
        ]
        training = None if s.training is None or s.training.dataset.endless else s.training
        if training and training.captions(torch.arange(1)):
            pictures = training.pictures(nearest(training, captions))
            rows.append(("nearest in training", self.similarity(pictures, captions), columns))
        numbers: list[Number] = []
        for row, similarity, targets in rows:
            r1, r5, rank, size = retrieval(similarity, targets)
            fields: dict[str, Any] = {"row": row, "protocol": f"among {size} captions"}
            for name, value, better in (
                ("R@1", r1, "higher"), ("R@5", r5, "higher"), ("median rank", rank, "lower"),
            ):  # fmt: skip
                numbers.append(self.number(name, value, len(targets), better=better, **fields))
        return numbers

    def similarity(self, pixels: Pixels, captions: list[str]) -> Float[Tensor, "n k"]:
        """Compute the judge's similarity of each picture to each caption.

        Raises:
            LimnerError: the judge returns something else.
        """
        judge = self.extractor
        assert isinstance(judge, ImageText)
        text = Tokenizer(judge.text).encode(captions)
        parts: list[Tensor] = []
        for block in pixels.split(BLOCK_PICTURES):
            cosines: object = judge.similarity(block, text)
            dims = (len(block), len(text))
            if not isinstance(cosines, Tensor) or cosines.shape != dims:
                raise LimnerError(
                    f"similarity of {judge.name} must return the cosines of {dims[0]} pictures "
                    f"with {dims[1]} captions; return a tensor of the shape {dims[0]} x {dims[1]}"
                )
            parts.append(cosines.cpu())
        return torch.cat(parts)


def gallery(pictures: PictureSet) -> dict[int, str]:
    """Collect captions of a set's first pictures, one of each thing, by the picture's number."""
    numbers = torch.arange(len(pictures))
    groups, captions = pictures.groups(numbers), pictures.captions(numbers) or []
    things = captions if groups is None else groups.tolist()
    result: dict[int, str] = {}
    used: set[object] = set()
    for number, (thing, caption) in enumerate(zip(things, captions)):
        if not used & {thing, caption} and len(result) < GALLERY:
            result[number] = caption
            used |= {thing, caption}
    return result


def nearest(real: RealPictures, captions: list[str]) -> Int[Tensor, "n"]:
    """Return, for each caption, the number of the real picture with the nearest caption."""
    real_captions = real.captions(torch.arange(len(real)))
    assert real_captions is not None
    vectors, real_vectors = _meaning(captions), _meaning(real_captions)
    return torch.cat(
        [(block @ real_vectors.T).argmax(1) for block in vectors.split(BLOCK_PICTURES)]
    )


def _meaning(texts: list[str]) -> Float[Tensor, "n d"]:
    """Compute the mean vector of each text's words, of length 1; 0 for a text without words."""
    spec = text_spec()
    table, scale = word_table(spec)
    tokens = Tokenizer(spec).encode(texts)
    vectors = torch.zeros(len(texts), table.shape[1])
    for start in range(0, len(texts), 1024):
        row = tokens[start : start + 1024]
        words = table[row].float() * scale[row][..., None]  # the scale of padding is 0
        vectors[start : start + 1024] = F.normalize(words.sum(1), dim=1)
    return vectors


def _other_rows(n: int) -> Int[Tensor, "n"]:
    """Return, for each of n indices, another random one."""
    order = random_order(n, 0)
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    return other
