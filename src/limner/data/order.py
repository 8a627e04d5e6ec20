"""Orders of the data: pure functions of (seed, global image number).

Shuffled   image g is element g mod N of the permutation of epoch g div N
Windowed   similar, but pictures stored together stay near each other, for disks that read best in
           sequence: each epoch permutes the blocks (shards), and then the pictures within each
           window of W pictures; W is often called the size of the shuffle buffer
ByWeight   image g is drawn by the data's weights, with replacement
Anything   image g is a random picture of endless data
Mixed      each source has its share of every 1,000 images (or blocks of images), in a random
           order; its n-th image is the n-th image of its own order
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.noise import Noise, Purpose

ROUND_LENGTH = 1000
"""Number of images in a round; each of several sources has its share of every round."""
Numbers = Int[Tensor, "b"]
_CACHED_PERMUTATIONS = 4


class Order(ABC):
    """An order of pictures: a function from global image numbers to indices of pictures.

    Args:
        seed: random seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._permutations: dict[int, Tensor] = {}

    @abstractmethod
    def __call__(self, numbers: Numbers) -> Numbers:
        """Return the indices of the images with these global numbers."""

    def permutation(self, stream: Noise, n: int) -> Int[Tensor, "n"]:
        """Draw a permutation from one stream, by sorting random keys; the last ones are cached."""
        key = int(stream.streams)
        order = self._permutations.get(key)
        if order is None:
            order = torch.argsort(stream.bits(n)[0], stable=True)
            self._permutations = dict([*self._permutations.items()][1 - _CACHED_PERMUTATIONS :]) | {
                key: order
            }
        return order

    def uniform(self, numbers: Numbers) -> Float[Tensor, "b"]:
        """Draw a number in [0, 1) for each image."""
        return Noise.keyed(self.seed, Purpose.ORDER, numbers).uniform(dtype=torch.float64)


def _apply(groups: Numbers, numbers: Numbers, f: Callable[[int, Numbers], Numbers]) -> Numbers:
    """Apply a function to the numbers of each group, and keep their positions."""
    result = torch.empty_like(numbers)
    for group in groups.unique().tolist():
        mask = groups == group
        result[mask] = f(group, numbers[mask])
    return result


class Shuffled(Order):
    """Every picture once an epoch.

    Args:
        n: number of pictures.
        seed: random seed.
    """

    def __init__(self, n: int, seed: int) -> None:
        super().__init__(seed)
        self.n = n

    def __call__(self, numbers: Numbers) -> Numbers:
        """Look the numbers up in the permutations of their epochs."""
        epochs = numbers.div(self.n, rounding_mode="floor")

        def look_up(epoch: int, places: Numbers) -> Numbers:
            return self.permutation(Noise.keyed(self.seed, Purpose.ORDER, [epoch]), self.n)[places]

        return _apply(epochs, numbers % self.n, look_up)


class Windowed(Order):
    """Every picture once an epoch, with the pictures of a block near each other.

    Args:
        blocks: number of pictures of each block; indices count the first block first.
        window: number of consecutive pictures that are shuffled.
        seed: random seed.
    """

    def __init__(self, blocks: Int[Tensor, "k"], window: int, seed: int) -> None:
        super().__init__(seed)
        self.blocks, self.window = blocks, window
        self.n = int(blocks.sum())
        self.starts = blocks.cumsum(0) - blocks

    def __call__(self, numbers: Numbers) -> Numbers:
        """Look the numbers up in the windows of their epochs."""
        epochs = numbers.div(self.n, rounding_mode="floor")
        return _apply(epochs, numbers % self.n, self._of_epoch)

    def _of_epoch(self, epoch: int, places: Numbers) -> Numbers:
        windows = places.div(self.window, rounding_mode="floor")
        count = -(-self.n // self.window)

        def shuffle(window: int, places: Numbers) -> Numbers:
            first = window * self.window
            size = min(self.window, self.n - first)
            stream = Noise.keyed(self.seed, Purpose.WINDOW, [epoch * count + window])
            permutation = self.permutation(stream, size)
            return first + permutation[places - first]

        places = _apply(windows, places, shuffle)
        stream = Noise.keyed(self.seed, Purpose.ORDER, [epoch])
        order = self.permutation(stream, len(self.blocks))
        ends = self.blocks[order].cumsum(0)
        block = torch.searchsorted(ends, places, right=True)
        return self.starts[order][block] + places - (ends - self.blocks[order])[block]


class ByWeight(Order):
    """Pictures drawn by weight, with replacement.

    Args:
        weights: weight of each picture.
        seed: random seed.
    """

    def __init__(self, weights: Float[Tensor, "n"], seed: int) -> None:
        super().__init__(seed)
        self.edges = weights.double().cumsum(0) / weights.double().sum()

    def __call__(self, numbers: Numbers) -> Numbers:
        """Draw by the weights."""
        indices = torch.searchsorted(self.edges, self.uniform(numbers), right=True)
        return indices.clamp_(max=len(self.edges) - 1)


class Anything(Order):
    """Random pictures of data so large that repetitions are negligible.

    Args:
        n: number of pictures.
        seed: random seed.
    """

    def __init__(self, n: int, seed: int) -> None:
        super().__init__(seed)
        self.n = n

    def __call__(self, numbers: Numbers) -> Numbers:
        """Draw from all pictures."""
        return (self.uniform(numbers) * self.n).long()


class Mixed(Order):
    """Several orders, each with its share of every round of images.

    Args:
        parts: the orders.
        counts: number of images, or blocks of images, that each has in a round of `ROUND_LENGTH`.
        join: function (source, index there) -> index in the mixture.
        seed: random seed of the order of sources.
        size: size of blocks of images; each block is from one source, and each call must stay
            within one block.
    """

    def __init__(
        self,
        parts: Sequence[Order],
        counts: Sequence[int],
        join: Callable[[int, Numbers], Numbers],
        seed: int,
        size: int = 1,
    ) -> None:
        super().__init__(seed)
        self.parts, self.counts, self.join, self.size = parts, counts, join, size
        source = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        rank = torch.cat([torch.arange(count) for count in counts])
        self._source, self._rank = source, rank

    def __call__(self, numbers: Numbers) -> Numbers:
        """Return the images of the sources, each in its own order.

        Raises:
            LimnerError: the numbers are in several blocks.
        """
        blocks = numbers.div(self.size, rounding_mode="floor")
        if self.size > 1 and len(blocks.unique()) > 1:
            raise LimnerError(
                f"train.batch={self.size} does not fit the batches that this run started with, "
                "which differ in picture size; keep the old number, or start a new run"
            )
        rounds = blocks.div(ROUND_LENGTH, rounding_mode="floor")
        source, rank = torch.empty_like(numbers), torch.empty_like(numbers)
        for number in rounds.unique().tolist():
            mask = rounds == number
            stream = Noise.keyed(self.seed, Purpose.MIX, [number])
            sources = self._source[self.permutation(stream, ROUND_LENGTH)]
            earlier = torch.empty_like(sources)  # number of earlier images of the same source
            earlier[torch.argsort(sources, stable=True)] = self._rank
            places = blocks[mask] % ROUND_LENGTH
            source[mask], rank[mask] = sources[places], earlier[places]

        def look_up(part: int, rows: Numbers) -> Numbers:
            block = rounds[rows] * self.counts[part] + rank[rows]
            return self.join(part, self.parts[part](block * self.size + numbers[rows] % self.size))

        return _apply(source, torch.arange(len(numbers)), look_up)


def shares_of_a_round(weights: Sequence[float]) -> list[int]:
    """Return the number of images of each source in a round, by largest remainders; at least one.

    >>> shares_of_a_round([0.5, 0.3, 0.2]), shares_of_a_round([1, 1, 1])
    ([500, 300, 200], [334, 333, 333])
    """
    exact = [ROUND_LENGTH * weight / sum(weights) for weight in weights]
    counts = [max(1, int(share)) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: max(0, ROUND_LENGTH - sum(counts))]:
        counts[i] += 1
    while sum(counts) > ROUND_LENGTH:
        counts[counts.index(max(counts))] -= 1
    return counts
