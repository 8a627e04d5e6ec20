"""Does a picture show its caption? Rank a gallery of captions by their similarity to it.

A judge of images and texts says how similar each picture is to each caption of the gallery. The
rank of a picture's own caption is 1 where it is the most similar one; R@k is the share of pictures
whose rank is at most k. Chance is k over the size of the gallery, which stands beside the number.
Ties count against: the rank is 1 + the number of other captions that are at least as similar, so a
judge that says the same of everything finds nothing.
"""

from typing import NamedTuple

from jaxtyping import Float, Float64, Int64
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.evaluate.metrics.statistics import Estimate, checked, percentiles, resampled

_K = 5


class Retrieval(NamedTuple):
    """R@1, R@5 and the median rank, with bootstrap intervals over the pictures.

    An interval of a share that is 0 or 1 has no width: no draw differs.
    """

    r1: Estimate
    r5: Estimate
    median_rank: Estimate
    gallery: int


def retrieval(
    similarity: Float[Tensor, "n k"], own: Int64[Tensor, "n"], seed: int = 0
) -> Retrieval:
    """Retrieval of each picture's own caption from a gallery.

    Args:
        similarity: of each picture to each caption.
        own: the column of each picture's own caption.
        seed: of the bootstrap's 1,000 draws.

    Raises:
        LimnerError: at most 5 captions, where R@5 is always 1; no picture; a column that is not
            there; NaN or infinite similarities.
    """
    n, gallery = similarity.shape
    if gallery <= _K:
        raise LimnerError(f"R@{_K} needs a gallery of more than {_K} captions, not {gallery}")
    table = checked(similarity, 1, "retrieval")
    if len(own) != n or own.min() < 0 or own.max() >= gallery:
        raise LimnerError(f"each of {n} pictures has its own caption among the gallery's {gallery}")
    rank = ranks(table, own.cpu())
    drawn = rank[resampled(n, seed)]
    return Retrieval(
        _share(rank <= 1, drawn <= 1),
        _share(rank <= _K, drawn <= _K),
        percentiles(float(rank.quantile(0.5)), drawn.quantile(0.5, dim=1)),
        gallery,
    )


def ranks(similarity: Float[Tensor, "n k"], own: Int64[Tensor, "n"]) -> Float64[Tensor, "n"]:
    """1 + how many other captions are at least as similar to the picture as its own."""
    mine = similarity.gather(1, own[:, None])
    return (similarity >= mine).sum(1).double()  # its own caption is the 1


def _share(true: Tensor, drawn: Tensor) -> Estimate:
    return percentiles(float(true.double().mean()), drawn.double().mean(1))
