"""The order of the data as a pure function of (seed, global image number).

Training sees images 0, 1, 2, ...; image g is a certain picture, mirrored or not, with a certain
caption, whatever the batch it comes in. So a run can be cut and resumed anywhere, and spread over
any number of processes. `limner.data.order` has the orders.
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

_READ = 64  # captions that are tried


class Stream:
    """Endless training data.

    Args:
        dataset: where the pictures come from.
        seed: of the order and of whatever is drawn.
        together: where pictures differ in size, so many that follow each other have one: those of
            a batch.

    Raises:
        LimnerError: the data set is none, see `check_dataset`.
    """

    def __init__(self, dataset: Dataset, seed: int = 0, together: int = 1) -> None:
        check_dataset(dataset)
        self.dataset = dataset
        self.seed = seed
        self._order = dataset.order(seed, together)
        text = dataset.spec.text
        self._tokenizer = None if text is None else Tokenizer(text)

    def batch(self, first: int, n: int) -> Batch:
        """The images with global numbers first .. first + n - 1."""
        if first < 0 or n < 1:
            raise LimnerError(f"a batch has n >= 1 images from first >= 0, not {n} from {first}")
        return self.at(torch.arange(first, first + n))

    def at(self, numbers: Int[Tensor, "b"]) -> Batch:
        """The images with these global numbers."""
        mirrored = torch.zeros(len(numbers), dtype=torch.bool)
        if self.dataset.flip:
            mirrored = Noise.keyed(self.seed, Purpose.FLIP, numbers).uniform() < 0.5
        corner = Noise.keyed(self.seed, Purpose.CROP, numbers).uniform(2)
        return self._batch(numbers, self.indices(numbers), View(mirrored, corner))

    def captions(self, numbers: Int[Tensor, "b"]) -> list[str] | None:
        """The captions of the images with these global numbers; None when the data have none."""
        noise = Noise.keyed(self.seed, Purpose.CAPTION, numbers)
        return self.dataset.captions(self.indices(numbers), noise)

    def check_captions(self) -> None:
        """Refuse captions that say nothing to a model.

        Raises:
            LimnerError: no word is known of any of the first ones.
        """
        if self._tokenizer is None:
            return
        first = torch.arange(min(_READ, len(self.dataset)))
        said = self.dataset.captions(first, Noise.keyed(self.seed, Purpose.CAPTION, first))
        if said and any(said) and not self._tokenizer.encode(said).any():
            example = next(filter(None, said))
            raise LimnerError(
                f"no word of the first {len(said)} captions is known, as in '{example}'; models "
                "read English: translate them, or leave data.text out"
            )

    def preview(self, n: int) -> Batch:
        """The same n pictures every time, of every class in turn, none mirrored."""
        return self._batch(torch.arange(n), self.dataset.overview(n), None)

    def indices(self, numbers: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        """Which pictures of the data set the images with these global numbers are."""
        return self._order(numbers)

    def _batch(
        self, numbers: Int[Tensor, "b"], indices: Int[Tensor, "b"], view: View | None
    ) -> Batch:
        data = self.dataset
        x = data.images(indices, Noise.keyed(self.seed, Purpose.BINARISE, numbers), view)
        label = None if data.labels is None else data.labels[indices]
        text = None
        if self._tokenizer is not None:
            said = data.captions(indices, Noise.keyed(self.seed, Purpose.CAPTION, numbers))
            text = None if said is None else self._tokenizer.encode(said)
        return Batch(x, Condition(label, text, data.hints(indices, numbers, self.seed, view, x)))


class Ahead:
    """Batches by number, those of the next step made in a thread while this step's are used.

    Whatever is asked for at one step is asked for again at the next, `stride` numbers later. What
    is made ahead is what would be made when asked for, so a run that is resumed sees the same.

    Args:
        batch: the images with global numbers first .. first + n - 1, for (first, n), whenever it is
            called and in whichever thread.
        stride: images a step.
    """

    def __init__(self, batch: Callable[[int, int], Batch], stride: int) -> None:
        self.batch, self.stride = batch, stride
        self._thread = ThreadPoolExecutor(1, "limner-data")
        self._coming: dict[tuple[int, int], Future[Batch]] = {}

    def __call__(self, first: int, n: int) -> Batch:
        """The images with global numbers first .. first + n - 1."""
        ready = self._coming.pop((first, n), None)
        batch = self.batch(first, n) if ready is None else ready.result()
        if ready is None:  # the first step, or one after a roll-back or with other micro-batches
            near = range(first - 2 * self.stride, first + 2 * self.stride)
            self._coming = {
                at: made for at, made in self._coming.items() if at[0] in near and at[1] == n
            }
        following = (first + self.stride, n)
        if following not in self._coming:
            self._coming[following] = self._thread.submit(self.batch, *following)
        return batch
