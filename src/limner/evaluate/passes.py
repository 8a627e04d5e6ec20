"""Painting and observation of pictures in fixed blocks of 64; each finished block is kept on disk.

    work/KEY/block-000012.pictures       the painted pictures, and the time that they took
    work/KEY/block-000012.OBSERVER       the columns that an observer recorded

The content of a block depends only on its number, blocks are joined in their order, and process r
of s takes the blocks r, r + s, r + 2s, ... So one or several processes end with the same numbers,
even if they are killed and restarted, and memory does not grow with the number of pictures.
"""

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from jaxtyping import Int
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.evaluate.extractors.extractor import Extractor, extract
from limner.evaluate.metrics.statistics import Moments
from limner.evaluate.picture_sets import Numbers, PaintedPictures, PictureSet, Pixels, RealPictures
from limner.runtime import processes
from limner.runtime.cache import cache_folder, cache_key, discard_folder, keep_tensors, load_kept

BLOCK_PICTURES = 64
"""The number of pictures in a block; the last one may have fewer."""
MAX_FEATURES = 10_000
"""The largest number of feature rows that are kept, for metrics that compare all pairs."""
MAX_LOGITS = 50_000
"""The largest number of rows of logits that are kept."""
Columns = dict[str, Tensor]
"""Named tensors with a row for each picture."""


class Share(NamedTuple):
    """A share of the work: the blocks `number`, `number + of`, `number + 2 of`, ... of all sets.

    Args:
        number: the number of the first block.
        of: the number of shares.
    """

    number: int
    of: int


def own_share() -> Share:
    """Return the share of this process."""
    return Share(processes.rank(), processes.size())


class Observer(ABC):
    """Base class of observers, which record named tensors of pictures, block by block.

    Attributes:
        name: the name in its files.
        fingerprint: a hash of everything that affects what it records.
        lasting: whether its records of real data stay in the cache.
        max_pictures: the largest number of pictures that it observes, rounded up to whole blocks;
            None for all.
    """

    name: str
    fingerprint: str
    lasting: bool = False
    max_pictures: int | None = None

    @abstractmethod
    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """Record pictures: return named tensors with a row for each.

        Args:
            pictures: the set.
            numbers: the numbers of the pictures in the set.
            pixels: the pictures.
        """

    def together(self, blocks: Iterable[Columns]) -> dict[str, Tensor]:
        """Join the records of all blocks."""
        parts = list(blocks)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class DigestObserver(Observer):
    """Observer of hashes, which are equal for equal pictures."""

    name = fingerprint = "digests"

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """Return `digest`, int64, which is equal for equal pictures."""
        digests = [hashlib.sha256(image.contiguous().numpy().data).digest()[:8] for image in pixels]
        values = [int.from_bytes(digest, signed=True) for digest in digests]
        return {"digest": torch.tensor(values)}


class FeatureObserver(Observer):
    """Observer of an extractor's features and logits: moments of all, rows of the first ones.

    Args:
        extractor: the extractor.
    """

    lasting = True

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self.name = "features"
        self.fingerprint = extractor.fingerprint

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """Return `features`, and `logits` if there are any.

        Raises:
            LimnerError: some are NaN or infinite, or the extractor does not return a row for each
                picture.
        """
        features, logits = extract(self.extractor, pixels)
        columns = {"features": features} | ({} if logits is None else {"logits": logits})
        for name, rows in columns.items():
            invalid = ~rows.isfinite().all(1).cpu()
            if invalid.any():
                raise LimnerError(
                    f"the {name} of {pictures.title(int(numbers[invalid][0]))} by "
                    f"{self.extractor.name} are NaN or infinite, so no metric has a value"
                )
        return {name: rows.float().cpu() for name, rows in columns.items()}

    def together(self, blocks: Iterable[Columns]) -> dict[str, Tensor]:
        """Join blocks: `n`, `mean`, `scatter` of all, `features` and `logits` of the first ones."""
        moments = Moments.empty(self.extractor.dim)
        rows: dict[str, list[Tensor]] = {}
        for block in blocks:
            moments = moments.update(block["features"])
            for name, limit in (("features", MAX_FEATURES), ("logits", MAX_LOGITS)):
                count = sum(map(len, rows.get(name, ())))
                if name in block and count < limit:
                    rows.setdefault(name, []).append(block[name][: limit - count])
        return moments.tensors() | {name: torch.cat(parts) for name, parts in rows.items()}


class _Blocks:
    """A set of pictures and its observers, processed block by block.

    Args:
        pictures: the set of pictures.
        observers: the observers of the set.
    """

    def __init__(self, pictures: PictureSet, observers: Sequence[Observer]) -> None:
        self.pictures = pictures
        self.observers = list(observers)
        self.folder = cache_folder() / "work" / cache_key(pictures.fingerprint, len(pictures))
        self._records: dict[str, dict[str, Tensor]] = {}  # by an observer's fingerprint

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return -(-len(self.pictures) // BLOCK_PICTURES)

    def count_waiting(self, share: Share) -> int:
        """Count the pictures of a share that are left."""
        if all(self._has_records(observer) for observer in self.observers):
            return 0
        return sum(
            len(self._numbers(block)) for block in range(share.number, self.blocks, share.of)
        )

    def do_share(self, advance: Callable[[float], None], share: Share) -> None:
        """Process a share's blocks that are not finished yet.

        Args:
            advance: a function that is called with the number of finished pictures.
            share: the share.
        """
        observers = [o for o in self.observers if not self._has_records(o)]
        if not observers:
            return
        for block in self._blocks_of(share):
            for observer in observers:
                if block in self._observed_blocks(observer):
                    self._records_of_block(observer, block)
            advance(len(self._numbers(block)))

    def of(self, observer: Observer) -> dict[str, Tensor]:
        """Return an observer's records of all pictures; process missing blocks now."""
        if not self._has_records(observer):
            records = observer.together(
                self._records_of_block(observer, b) for b in self._observed_blocks(observer)
            )
            if self._is_cached(observer):
                keep_tensors(self._file(observer), records)
            self._records[observer.fingerprint] = records
        return self._records[observer.fingerprint]

    def pixels(self, numbers: Iterable[int]) -> Pixels:
        """Return some of the pictures; painted ones are read from disk, not painted again."""
        picture_numbers = list(numbers)
        if not isinstance(self.pictures, PaintedPictures):
            return self.pictures.pictures(torch.tensor(picture_numbers))
        return torch.stack(
            [self._pixels(n // BLOCK_PICTURES)[n % BLOCK_PICTURES] for n in picture_numbers]
        )

    def seconds(self) -> float:
        """Return the seconds that painting took, over all processes."""
        if not isinstance(self.pictures, PaintedPictures):
            return 0.0
        return sum(float(self._paint_block(block)["seconds"]) for block in range(self.blocks))

    def discard(self) -> None:
        """Delete the blocks of these observers, once the report is written."""
        for suffix in ("pictures", *map(_ending, self.observers)):
            for file in self.folder.glob(f"block-*.{suffix}"):
                file.unlink(missing_ok=True)
        discard_folder(self.folder)

    def _numbers(self, block: int) -> Int[Tensor, "b"]:
        return torch.arange(
            block * BLOCK_PICTURES, min((block + 1) * BLOCK_PICTURES, len(self.pictures))
        )

    def _blocks_of(self, share: Share) -> range:
        return range(share.number, self.blocks, share.of)

    def _observed_blocks(self, observer: Observer) -> range:
        if (n := observer.max_pictures) is None:
            return range(self.blocks)
        return range(min(self.blocks, -(-n // BLOCK_PICTURES)))

    def _has_records(self, observer: Observer) -> bool:
        """Return whether an observer's records are known from an earlier call or evaluation."""
        if observer.fingerprint not in self._records and self._is_cached(observer):
            records = load_kept(self._file(observer))
            if records is not None:
                self._records[observer.fingerprint] = records
        return observer.fingerprint in self._records

    def _is_cached(self, observer: Observer) -> bool:
        return observer.lasting and isinstance(self.pictures, RealPictures)

    def _file(self, observer: Observer) -> Path:
        name = cache_key(self.pictures.fingerprint, len(self.pictures), observer.fingerprint)
        return cache_folder() / "statistics" / f"{name}.safetensors"

    def _records_of_block(self, observer: Observer, block: int) -> Columns:
        """Return an observer's records of a block."""

        def look() -> Columns:
            numbers = self._numbers(block)
            with torch.no_grad():
                columns = observer.look(self.pictures, numbers, self._pixels(block))
            return _columns_of(columns, len(numbers), type(observer).__name__)

        return self._recall(block, _ending(observer), look)

    def _pixels(self, block: int) -> Pixels:
        if isinstance(self.pictures, PaintedPictures):
            return self._paint_block(block)["pixels"]
        return self.pictures.pictures(self._numbers(block))

    def _paint_block(self, block: int) -> Columns:
        def paint() -> Columns:
            start = time.perf_counter()
            pixels = self.pictures.pictures(self._numbers(block))
            seconds = torch.tensor(time.perf_counter() - start, dtype=torch.float64)
            return {"pixels": pixels, "seconds": seconds}

        return self._recall(block, "pictures", paint)

    def _recall(self, block: int, suffix: str, make: Callable[[], Columns]) -> Columns:
        """Read a block's file; if there is none, compute and write it."""
        path = self.folder / f"block-{block:06d}.{suffix}"
        columns = load_kept(path)
        if columns is None:
            columns = make()
            keep_tensors(path, columns)
        return columns


def _columns_of(records: object, n: int, name: str) -> Columns:
    """Check an observer's records of n pictures.

    Raises:
        LimnerError: they do not have a row for each picture.
    """
    columns = cast("Columns", records) if isinstance(records, dict) else {"": None}
    for column in columns.values():
        value: object = column
        if not isinstance(value, Tensor) or not value.dim() or len(value) != n:
            raise LimnerError(
                f"look of {name} does not return a row for each of {n} pictures; return named "
                "tensors, such as {'size': sizes}"
            )
    return cast("Columns", columns)


def _ending(observer: Observer) -> str:
    """Return the suffix of an observer's files."""
    return f"{observer.name}-{cache_key(observer.fingerprint)}"


class Observations:
    """The observed pictures of an evaluation: all sets with their observers.

    Args:
        needs: pairs of a set of pictures and its observer; equal pairs are processed once.
    """

    def __init__(self, needs: Iterable[tuple[PictureSet, Observer]]) -> None:
        self._sets: dict[tuple[str, int], _Blocks] = {}
        for pictures, observer in needs:
            blocks = self._sets.setdefault(_identity(pictures), _Blocks(pictures, []))
            if all(observer.fingerprint != other.fingerprint for other in blocks.observers):
                blocks.observers.append(observer)

    def count_waiting(self, share: Share | None = None) -> int:
        """Count the pictures of a share that are left; None for this process's share."""
        share = share or own_share()
        return sum(blocks.count_waiting(share) for blocks in self._sets.values())

    def do_share(self, advance: Callable[[float], None], share: Share | None = None) -> None:
        """Paint and observe a share.

        Args:
            advance: a function that is called with the number of finished pictures.
            share: the share; None for this process's.
        """
        share = share or own_share()
        for blocks in self._sets.values():
            blocks.do_share(advance, share)

    def of(self, pictures: PictureSet, observer: Observer) -> dict[str, Tensor]:
        """Return an observer's records of a set of pictures."""
        return self._sets[_identity(pictures)].of(observer)

    def pixels(self, pictures: PictureSet, numbers: Iterable[int]) -> Pixels:
        """Return some pictures of a set."""
        return self._sets[_identity(pictures)].pixels(numbers)

    def seconds(self, pictures: PictureSet) -> float:
        """Return the seconds that painting a set took."""
        return self._sets[_identity(pictures)].seconds()

    def discard(self) -> None:
        """Delete all blocks, once the report is written."""
        for blocks in self._sets.values():
            blocks.discard()


def _identity(pictures: PictureSet) -> tuple[str, int]:
    return pictures.fingerprint, len(pictures)
