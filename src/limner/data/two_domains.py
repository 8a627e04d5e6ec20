"""`unpaired:A,B` and `paired:A,B`: two domains, for models that translate."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from limner.contract.abilities import Translates
from limner.contract.errors import LimnerError
from limner.contract.image import Images
from limner.contract.model import Learner
from limner.contract.noise import Noise, Purpose
from limner.data.dataset import Dataset, View
from limner.data.stream import Stream


class TwoDomains(Dataset):
    """Pictures of domain B, each with a picture of domain A as its conditioning image.

    Args:
        a: the domain to translate from.
        b: the domain to translate to, which gives captions, groups and weights.
        source: the source as it was typed.
        b_indices: indices of the pictures of B to use; None for all of them.
    """

    def __init__(
        self, a: Dataset, b: Dataset, source: str, b_indices: Int[Tensor, "n"] | None
    ) -> None:
        self.a, self.b, self._b_indices = a, b, b_indices
        self.spec = replace(b.spec, hint=a.spec)
        self.source, self.endless = source, b.endless
        self.labels = None if b.labels is None else self._of_b(b.labels)
        self.weights = None if b.weights is None else self._of_b(b.weights)
        self.groups = None if b.groups is None else self._of_b(b.groups)
        self.skipped = (*a.skipped, *b.skipped)
        self.training, self.flip, self.dynamic = b.training, b.flip, b.dynamic
        self.floors = b.floors
        self.digest = hashlib.sha256(f"{a.digest} {b.digest}".encode()).hexdigest()

    def _of_b(self, of_all: Shaped[Tensor, "k"]) -> Shaped[Tensor, "n"]:
        """Return those numbers of all pictures of B that belong to the pictures in use."""
        return of_all if self._b_indices is None else of_all[self._b_indices]

    def _in_b(self, indices: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        """Return the indices of pictures in B."""
        return indices if self._b_indices is None else self._b_indices[indices]

    def __len__(self) -> int:
        return len(self.b) if self._b_indices is None else len(self._b_indices)

    def name(self, index: int) -> str:
        """Return the name in domain B."""
        return self.b.name(int(self._in_b(torch.tensor([index]))))

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """Return pictures of domain B."""
        return self.b.pixels(self._in_b(indices))

    def parts(
        self, indices: Int[Tensor, "b"], corner: Float[Tensor, "b 2"]
    ) -> UInt8[Tensor, "b c h w"]:
        """Return crops of pictures of domain B."""
        return self.b.parts(self._in_b(indices), corner)

    def captions(self, indices: Int[Tensor, "b"], noise: Noise) -> list[str] | None:
        """Return captions of domain B."""
        return self.b.captions(self._in_b(indices), noise)


class Unpaired(TwoDomains):
    """Pictures of domain B, each with an independent picture of domain A.

    Args:
        a, b, source: see `TwoDomains`.
    """

    def __init__(self, a: Dataset, b: Dataset, source: str) -> None:
        super().__init__(a, b, source, None)
        self._stream = Stream(a)

    def hints(
        self,
        indices: Int[Tensor, "b"],
        numbers: Int[Tensor, "b"],
        seed: int,
        view: View | None = None,
        x: Images | None = None,
    ) -> Float[Tensor, "b k hh ww"]:
        """Return pictures of domain A, in an independent order.

        Without `view`, each comes once a round, and weights are ignored.
        """
        hint_seed = int(Noise.keyed(seed, Purpose.HINT, [0]).bits(1))
        if view is not None:
            if self._stream.seed != hint_seed:
                self._stream = Stream(self.a, hint_seed)
            return self._stream.at(numbers).x
        positions = numbers % len(self.a)
        if not self.a.endless:
            keys = Noise.keyed(hint_seed, Purpose.OTHER_ORDER, [0]).bits(len(self.a))[0]
            positions = torch.argsort(keys, stable=True)[positions]
        return self.a.images(positions, Noise.keyed(hint_seed, Purpose.BINARISE, numbers))


class Paired(TwoDomains):
    """Pictures of domain B with their counterparts in domain A, augmented alike.

    Args:
        a, b, source: see `TwoDomains`.

    Raises:
        LimnerError: no picture of B has a counterpart.
    """

    paired = True

    def __init__(self, a: Dataset, b: Dataset, source: str) -> None:
        names_a, names_b = _names(a), _names(b)
        pairs = pairs_of(names_a, names_b)
        if not pairs:
            raise LimnerError(
                f"no picture of {b.source} has the same name as one of {a.source}; first names are "
                f"'{b.name(0)}' and '{a.name(0)}'; rename counterparts, or use unpaired:"
            )
        super().__init__(a, b, source, torch.tensor([i for i, _ in pairs]))
        self.unpaired: list[tuple[str, str]] = []
        for names, used, other in zip((names_b, names_a), map(set, zip(*pairs)), (a, b)):
            reason = f"no counterpart in {other.source}"
            self.unpaired += [(n, reason) for i, n in enumerate(names) if i not in used]
        self.skipped += tuple(self.unpaired)
        self.counterparts = torch.tensor([i for _, i in pairs])
        self.digest = hashlib.sha256(f"paired {self.digest} {pairs}".encode()).hexdigest()
        if self.labels is not None and b.spec.frequencies:
            weights = torch.ones(len(pairs), dtype=torch.float64)
            weights = weights if self.weights is None else self.weights.double()
            shares = torch.bincount(self.labels, weights, minlength=len(b.spec.labels))
            shares = (shares / shares.sum()).tolist()
            self.spec = replace(self.spec, frequencies=tuple(shares))

    def hints(
        self,
        indices: Int[Tensor, "b"],
        numbers: Int[Tensor, "b"],
        seed: int,
        view: View | None = None,
        x: Images | None = None,
    ) -> Float[Tensor, "b k hh ww"]:
        """Return the counterparts, mirrored and cropped like the pictures."""
        noise = Noise.keyed(seed, Purpose.HINT, numbers)
        return self.a.images(self.counterparts[indices], noise, view)


def check_pairs(model: Learner, data: Dataset) -> None:
    """Check that a model that needs pairs gets paired data.

    Raises:
        LimnerError: it needs pairs, but the data are unpaired.
    """
    if isinstance(model, Translates) and model.needs_pairs and isinstance(data, Unpaired):
        raise LimnerError(
            f"{model.name} learns from pairs, but {data.source} has none; give paired:A,B, or "
            "train cut or cyclegan"
        )


def _names(data: Dataset) -> list[str]:
    """Return the names of all pictures.

    Raises:
        LimnerError: the data are endless.
    """
    if data.endless:
        raise LimnerError(f"{data.source} is endless and cannot be paired; use unpaired:")
    return [data.name(i) for i in range(len(data))]


def pairs_of(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Return the indices, in B and in A, of names that are equal without their suffixes.

    Folders are ignored, too, if the names within each domain then remain different.

    Raises:
        LimnerError: a picture has two counterparts, such as 1.jpg and 1.png.

    >>> pairs_of(["x/1.jpg", "x/2.jpg"], ["y/2.png", "y/3.png"])
    [(0, 1)]
    """
    paths = [[PurePosixPath(name).with_suffix("") for name in names] for names in (a, b)]
    is_unique = all(len({path.name for path in domain}) == len({*domain}) for domain in paths)
    keys = [[path.name if is_unique else str(path) for path in domain] for domain in paths]
    index_a, index_b = ({key: i for i, key in enumerate(domain)} for domain in keys)
    for names, domain, index in ((a, keys[0], index_a), (b, keys[1], index_b)):
        for i, key in enumerate(domain):
            if index[key] != i and key in index_a and key in index_b:
                raise LimnerError(
                    f"'{names[i]}' and '{names[index[key]]}' have the same counterpart; rename or "
                    "remove one of them"
                )
    return [(i, index_a[key]) for key, i in index_b.items() if key in index_a]
