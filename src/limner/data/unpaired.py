"""`unpaired:A,B`: two domains without pairs, as CycleGAN learns from them."""

import hashlib
from dataclasses import replace

from jaxtyping import Int, UInt8
from torch import Tensor

from limner.contract.image import Images
from limner.contract.noise import Noise, Purpose
from limner.data.dataset import Dataset
from limner.data.stream import Stream


class Unpaired(Dataset):
    """Pictures of domain B, each with an independent picture of domain A as conditioning image.

    Args:
        a: the domain to translate from.
        b: the domain to translate to; length, labels, captions and weights are its own.
        source: as it was typed.
    """

    def __init__(self, a: Dataset, b: Dataset, source: str) -> None:
        self.a, self.b = a, b
        self._stream = Stream(a)
        self.spec = replace(b.spec, hint=a.spec)
        self.source = source
        self.digest = hashlib.sha256(f"{a.digest} {b.digest}".encode()).hexdigest()
        self.labels, self.weights = b.labels, b.weights
        self.skipped = (*a.skipped, *b.skipped)
        self.training, self.flip, self.dynamic = b.training, b.flip, b.dynamic

    def __len__(self) -> int:
        return len(self.b)

    def name(self, index: int) -> str:
        """The name in domain B."""
        return self.b.name(index)

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """Pictures of domain B."""
        return self.b.pixels(indices)

    def captions(self, indices: Int[Tensor, "b"], noise: Noise) -> list[str] | None:
        """Captions of domain B."""
        return self.b.captions(indices, noise)

    def hints(self, indices: Int[Tensor, "b"], numbers: Int[Tensor, "b"], seed: int) -> Images:
        """Pictures of domain A, in an order of their own."""
        own = int(Noise.keyed(seed, Purpose.HINT, [0]).bits(1))
        if self._stream.seed != own:
            self._stream = Stream(self.a, own)
        return self._stream.at(numbers).x
