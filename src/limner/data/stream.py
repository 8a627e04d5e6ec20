"""The order of the data as a pure function of (seed, global image number).

Training sees images 0, 1, 2, ... Image g is always the same picture, mirrored or not, with the same
caption, in any batch. So a run can be stopped and resumed anywhere, and distributed over any number
of processes. The orders are in `limner.data.order`.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from jaxtyping import Int
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition
from limner.contract.noise import Noise, Purpose
from limner.contract.text import Tokenizer
from limner.data.dataset import Dataset, View, check_dataset

_CHECKED_CAPTIONS = 64  # captions that are checked for known words


class Stream:
    """Endless training data.

    Args:
        dataset: the data set.
        seed: random seed of the order, augmentation and captions.
        together: number of consecutive images with one size, if pictures differ in size: the batch
            size.

    Raises:
        LimnerError: the data set is invalid, see `check_dataset`.
    """

    def __init__(self, dataset: Dataset, seed: int = 0, together: int = 1) -> None:
        check_dataset(dataset)
        self.dataset = dataset
        self.seed = seed
        self._order = dataset.order(seed, together)
        text = dataset.spec.text
        self._tokenizer = None if text is None else Tokenizer(text)

    def batch(self, first: int, n: int) -> Batch:
        """Return the images with global numbers first .. first + n - 1."""
        if first < 0 or n < 1:
            raise LimnerError(f"a batch has n >= 1 images from first >= 0, not {n} from {first}")
        return self.at(torch.arange(first, first + n))

    def at(self, numbers: Int[Tensor, "b"]) -> Batch:
        """Return the images with these global numbers."""
        mirrored = torch.zeros(len(numbers), dtype=torch.bool)
        if self.dataset.flip:
            mirrored = Noise.keyed(self.seed, Purpose.FLIP, numbers).uniform() < 0.5
        corner = Noise.keyed(self.seed, Purpose.CROP, numbers).uniform(2)
        return self._batch(numbers, self.indices(numbers), View(mirrored, corner))

    def captions(self, numbers: Int[Tensor, "b"]) -> list[str] | None:
        """Return the captions of the images with these global numbers; None without captions."""
        noise = Noise.keyed(self.seed, Purpose.CAPTION, numbers)
        return self.dataset.captions(self.indices(numbers), noise)

    def check_captions(self) -> None:
        """Check that captions have words that models know.

        Raises:
            LimnerError: the first captions have no known word.
        """
        if self._tokenizer is None:
            return
        indices = torch.arange(min(_CHECKED_CAPTIONS, len(self.dataset)))
        texts = self.dataset.captions(indices, Noise.keyed(self.seed, Purpose.CAPTION, indices))
        if texts and any(texts) and not self._tokenizer.encode(texts).any():
            example = next(filter(None, texts))
            raise LimnerError(
                f"the first {len(texts)} captions, such as '{example}', have no known word; models "
                "read English: translate the captions, or leave data.text out"
            )

    def preview(self, n: int) -> Batch:
        """Return n fixed pictures, of every class in turn, not mirrored."""
        return self._batch(torch.arange(n), self.dataset.overview(n), None)

    def indices(self, numbers: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        """Return the indices, in the data set, of the images with these global numbers."""
        return self._order(numbers)

    def _batch(
        self, numbers: Int[Tensor, "b"], indices: Int[Tensor, "b"], view: View | None
    ) -> Batch:
        data = self.dataset
        x = data.images(indices, Noise.keyed(self.seed, Purpose.BINARISE, numbers), view)
        label = None if data.labels is None else data.labels[indices]
        text = None
        if self._tokenizer is not None:
            captions = data.captions(indices, Noise.keyed(self.seed, Purpose.CAPTION, numbers))
            text = None if captions is None else self._tokenizer.encode(captions)
        return Batch(x, Condition(label, text, data.hints(indices, numbers, self.seed, view, x)))


class Prefetcher:
    """Batches by number, prefetched in a thread: those of the next step while this one runs.

    Each request of a step is expected again at the next step, `stride` numbers later. A prefetched
    batch equals one made on demand, so a resumed run sees the same data.

    Args:
        batch: function (first, n) -> images with global numbers first .. first + n - 1, the same at
            every call and in every thread.
        stride: number of images per step.
    """

    def __init__(self, batch: Callable[[int, int], Batch], stride: int) -> None:
        self.batch, self.stride = batch, stride
        self._thread = ThreadPoolExecutor(1, "limner-data")
        self._coming: dict[tuple[int, int], Future[Batch]] = {}

    def __call__(self, first: int, n: int) -> Batch:
        """Return the images with global numbers first .. first + n - 1."""
        future = self._coming.pop((first, n), None)
        batch = self.batch(first, n) if future is None else future.result()
        if future is None:  # the first step, or after a rollback or with other micro-batches
            window = range(first - 2 * self.stride, first + 2 * self.stride)
            self._coming = {
                key: pending
                for key, pending in self._coming.items()
                if key[0] in window and key[1] == n
            }
        following = (first + self.stride, n)
        if following not in self._coming:
            self._coming[following] = self._thread.submit(self.batch, *following)
        return batch
