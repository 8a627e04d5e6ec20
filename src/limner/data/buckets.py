"""`data.buckets=48x80,80x48`: several sizes in training, with as little cropping as possible.

In training, each picture gets the size with the nearest aspect ratio: data.size or one of the
buckets. All pictures of a batch have one size. The size is drawn for each batch, so that each size
has its share of every 1,000 batches. Evaluation and samples use data.size alone.

Kept from NovelAI: all pictures of a batch have one size, and each picture has the size with the
nearest aspect ratio. Different: the sizes are given, not searched for, and each has its own epochs.

Reference:
    NovelAI (2022). NovelAI improvements on Stable Diffusion.
    https://blog.novelai.net/novelai-improvements-on-stable-diffusion-e10d38db82ac
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.model import Learner
from limner.contract.options import read_size
from limner.data.broken_files import Reasons, check_broken
from limner.data.dataset import Dataset
from limner.data.decode import check_pixels, header
from limner.data.mixed import MixedSources
from limner.data.order import Mixed, Order
from limner.data.pictures import (
    Entry,
    Listing,
    Pictures,
    Source,
    channels_of,
    gather_part,
    map_pictures,
)

Size = tuple[int, int]
"""Height and width."""


class Buckets(MixedSources):
    """Pictures of several sizes, with one size in each batch.

    Args:
        parts: pictures of each size; the first size is that of the model.
        broken: files left out, with reasons.
        source: the source as it was typed.
    """

    def __init__(self, parts: Sequence[Dataset], broken: Reasons, source: str) -> None:
        super().__init__(parts, [source] * len(parts), source, [len(part) for part in parts])
        self.skipped = tuple(dict.fromkeys((*self.skipped, *broken)))
        self.sizes = tuple(part.spec.shape[1:] for part in parts)

    def check_alike(self, part: Dataset, name: str) -> None:
        """Accept every part: sizes may differ, and everything else comes from one source."""

    def order(self, seed: int, together: int = 1) -> Order:
        """Mix the orders of the sizes, one batch at a time."""
        orders = [part.order(seed) for part in self.sources]
        return Mixed(orders, self.counts, self.join, seed, together)

    def overview(self, n: int) -> Int[Tensor, "n"]:
        """Return indices of pictures of the first size."""
        return self.sources[0].overview(n)

    def name(self, index: int) -> str:
        """Return the name of a picture in the source."""
        part, position = self.split(torch.tensor([index]))
        return self.sources[int(part)].name(int(position))


def open_buckets(source: Source, typed: str, listing: Listing | None = None) -> Dataset:
    """Open a source, or a listing of it, with each picture in the size nearest in aspect ratio.

    Raises:
        LimnerError: see `decode_pictures`; there is no data.size, or one of the sizes gets no
            picture.
    """
    if type(source).open is not Source.open:
        raise LimnerError(
            f"data.buckets need pictures in folders or archives, which {typed} does not have; "
            "leave it out"
        )
    for option in ("hint", "load_size"):
        if getattr(source, option):
            raise LimnerError(f"data.buckets and data.{option} do not go together; leave one out")
    if source.shape is None:
        raise LimnerError(
            "data.buckets are sizes in addition to data.size; give that, too: data.size=64"
        )
    sizes = [source.shape, *bucket_sizes(str(source.buckets))]
    if len({*sizes}) < len(sizes):
        raise LimnerError(
            f"data.buckets={source.buckets}: a size is given twice; give each size once"
        )
    listing = listing or source.checked_listing()
    broken, parts = Reasons(listing.broken), list[Pictures]()
    total = max(len(listing.entries) + len(broken), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings; broken files are reported with reasons
        heads = list(map_pictures(listing.entries, header, broken))
        check_broken(broken, total, typed, source.broken)
        groups = {size: list[Entry]() for size in sizes}
        for entry, head in heads:
            width = head.width / (2 if source.half else 1)
            groups[nearest(sizes, head.height, width)].append(entry)
        for size, entries in groups.items():
            text = "x".join(map(str, size))
            if not entries:
                raise LimnerError(
                    f"no picture of {typed} is nearest to {text} (height x width) in proportion; "
                    "give another data.size, or leave it out of data.buckets"
                )
            memory = source.memory * len(entries) / total
            part_source, shape = replace(source, memory=memory), (channels_of(source, heads), *size)
            part = gather_part(part_source, typed, listing._replace(entries=entries), shape, broken)
            parts += [part] if part else []
    check_broken(broken, total, typed, source.broken)
    if parts[0].spec.shape[1:] != sizes[0]:
        raise LimnerError(
            f"all pictures of {typed} that are nearest to data.size are broken; replace them"
        )
    return Buckets(parts, broken, typed)


def check_sizes(model: Learner, data: Dataset) -> None:
    """Check that a model can learn all picture sizes of a data set.

    Raises:
        LimnerError: it cannot.
    """
    for height, width in data.sizes:
        try:
            model.at_size(height, width)
        except LimnerError as error:
            raise LimnerError(f"data.buckets with {height}x{width}: {error}") from None


def bucket_sizes(typed: str) -> list[Size]:
    """Read sizes as they are typed, "48x80,80x48".

    Raises:
        LimnerError: the text has another form, or a size is too large.
    """
    try:
        sizes = [read_size(part) for part in typed.split(",")]
    except ValueError:
        raise LimnerError(
            f"data.buckets={typed}: give sizes as HEIGHTxWIDTH, with commas, as in 48x80,80x48"
        ) from None
    for size in sizes:
        check_pixels("buckets", size)
    return sizes


def nearest(sizes: Sequence[Size], height: float, width: float) -> Size:
    """Return the size with the nearest aspect ratio, the first if several are equally near.

    >>> nearest([(64, 64), (48, 80), (80, 48)], height=600, width=1000)
    (48, 80)
    """
    return min(sizes, key=lambda size: abs(math.log(size[0] / size[1] * width / height)))
