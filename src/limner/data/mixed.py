"""`mixed:A,B,...`, or a list of sources: a mixture of sources, each with a share."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Images, ImageSpec
from limner.contract.noise import Noise
from limner.contract.text import TextSpec
from limner.data.dataset import Dataset, View
from limner.data.order import Mixed, Order, shares_of_a_round

_MAX_WEIGHT = 1e300  # the sum of thousands of weights must not overflow


class MixedSources(Dataset):
    """Pictures of several sources; each has its share of every 1,000 images in training.

    Indices count the first source first; if a source is endless, the sources alternate.

    Args:
        parts: the sources.
        names: each source as it was typed.
        source: the mixture as it was typed.
        weights: relative share of each source; None for equal shares.

    Raises:
        LimnerError: pictures or conditions of two sources do not agree.
    """

    def __init__(
        self,
        parts: Sequence[Dataset],
        names: Sequence[str],
        source: str,
        weights: Sequence[float] | None = None,
    ) -> None:
        weights = weights or [1.0] * len(parts)
        self.sources, self.source = parts, source
        for part, name in zip(parts[1:], names[1:]):
            self.check_alike(part, name)
        self.counts = shares_of_a_round(weights)
        first = parts[0]
        shares = torch.tensor(self.counts, dtype=torch.float64) / sum(self.counts)
        self.spec = first.spec
        self.endless = any(part.endless for part in parts)
        sizes = torch.tensor([len(part) for part in parts])
        self._sizes, self._ends = sizes, sizes.cumsum(0)
        if first.labels is not None:
            frequencies = torch.tensor([part.spec.frequencies for part in parts]).double()
            mean = (shares[:, None] * frequencies).sum(0)
            self.spec = replace(first.spec, frequencies=tuple(mean.tolist()))
            self.labels = torch.cat([part.labels for part in parts if part.labels is not None])
        self.skipped = tuple(file for part in parts for file in part.skipped)
        self.training, self.flip = first.training, first.flip
        self.dynamic, self.floors = first.dynamic, first.floors
        self.paired = all(part.paired for part in parts)
        content = " ".join([*(part.digest for part in parts), *map(str, self.counts)])
        self.digest = hashlib.sha256(content.encode()).hexdigest()

    def __len__(self) -> int:
        return int(self._sizes.max()) if self.endless else int(self._ends[-1])

    def check_alike(self, part: Dataset, name: str) -> None:
        """Check that one model can learn a source together with the first."""
        _check_agree(self.sources[0], self.sources[0].source, part, name)

    def order(self, seed: int, together: int = 1) -> Order:
        """Mix the orders of the sources."""
        return Mixed([part.order(seed) for part in self.sources], self.counts, self.join, seed)

    def join(self, part: int, own: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        """Return the indices of one source's pictures in the mixture."""
        if self.endless:
            return own * len(self.sources) + part
        return own + self._ends[part] - self._sizes[part]

    def split(self, indices: Int[Tensor, "b"]) -> tuple[Int[Tensor, "b"], Int[Tensor, "b"]]:
        """Return the source of each picture, and its index there."""
        if self.endless:
            part = indices % len(self.sources)
            positions = indices.div(len(self.sources), rounding_mode="floor")
            return part, positions % self._sizes[part]
        part = torch.searchsorted(self._ends, indices, right=True)
        return part, indices - (self._ends - self._sizes)[part]

    def _gather(
        self,
        indices: Int[Tensor, "b"],
        ask: Callable[[Dataset, Int[Tensor, "k"], Int[Tensor, "k"]], Shaped[Tensor, "..."]],
    ) -> Shaped[Tensor, "..."]:
        """Call `ask(source, indices there, rows)` for each source, and join the results."""
        part, positions = self.split(indices)
        rows, results = [], []
        for number in part.unique().tolist():
            rows.append((part == number).nonzero().flatten())
            results.append(ask(self.sources[number], positions[rows[-1]], rows[-1]))
        return torch.cat(results)[torch.argsort(torch.cat(rows))]

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """Return pictures of the sources."""
        return self._gather(indices, lambda data, positions, rows: data.pixels(positions))

    def parts(
        self, indices: Int[Tensor, "b"], corner: Float[Tensor, "b 2"]
    ) -> UInt8[Tensor, "b c h w"]:
        """Return crops of pictures of the sources."""
        return self._gather(
            indices, lambda data, positions, rows: data.parts(positions, corner[rows])
        )

    def captions(self, indices: Int[Tensor, "b"], noise: Noise) -> list[str] | None:
        """Return captions of the sources; None if one has no captions."""
        part, positions = self.split(indices)
        captions = [""] * len(indices)
        for number in part.unique().tolist():
            rows = (part == number).nonzero().flatten()
            part_captions = self.sources[number].captions(positions[rows], noise.rows(rows))
            if part_captions is None:
                return None
            for row, caption in zip(rows.tolist(), part_captions):
                captions[row] = caption
        return captions

    def hints(
        self,
        indices: Int[Tensor, "b"],
        numbers: Int[Tensor, "b"],
        seed: int,
        view: View | None = None,
        x: Images | None = None,
    ) -> Float[Tensor, "b k hh ww"] | None:
        """Return conditioning images of the sources."""
        if self.spec.hint is None:
            return None

        def ask(
            data: Dataset, positions: Int[Tensor, "k"], rows: Int[Tensor, "k"]
        ) -> Float[Tensor, "k c hh ww"]:
            part_view = None if view is None else View(view.mirrored[rows], view.corner[rows])
            hints = data.hints(
                positions, numbers[rows], seed, part_view, None if x is None else x[rows]
            )
            assert hints is not None, "sources agree that there are hints"
            return hints

        return self._gather(indices, ask)

    def overview(self, n: int) -> Int[Tensor, "n"]:
        """Return indices of pictures of each source in turn."""
        count = len(self.sources)
        overviews = [data.overview(-(-n // count)) for data in self.sources]
        turns = torch.stack([self.join(i, indices) for i, indices in enumerate(overviews)], 1)
        return turns.flatten()[:n]

    def name(self, index: int) -> str:
        """Return the source of a picture and its name there."""
        part, position = self.split(torch.tensor([index]))
        data = self.sources[int(part)]
        return f"{data.source} {data.name(int(position))}"


def read_weights(typed: object, count: int) -> list[float] | None:
    """Read the shares of sources as typed: one number, or a list; None for equal shares.

    Args:
        typed: the value of data.weights.
        count: number of sources.

    Raises:
        LimnerError: there is not one positive number for each source.
    """
    if typed is None:
        return None
    values = [*typed] if isinstance(typed, list | tuple) else [typed]
    weights = [float(w) for w in values if isinstance(w, int | float) and 0 < w < _MAX_WEIGHT]
    if len(weights) != len(values) or len(weights) != count:
        raise LimnerError(
            f"data.weights={','.join(map(str, values))}: give a positive number for each of the "
            f"{count} sources"
        )
    return weights


def _check_agree(first: Dataset, typed: str, other: Dataset, other_typed: str) -> None:
    """Check that one model can learn the pictures of both sources.

    Raises:
        LimnerError: they differ; the message names an option that makes them agree.
    """
    a, b = first.spec, other.spec
    remedies = {
        "are {shape} (channels, height, width)": "data.size=32 data.channels=3",
        "have {levels} levels": "data.levels of both",
        "have the classes {labels}": "data.label=none or data.labels=false, where it is an option",
        "have captions encoded as {text}": "data.text=true data.tokens=32, or data.text=false",
        "have {hint} as conditioning images": "data.hint of both",
    }
    for phrase, remedy in remedies.items():
        field = phrase[phrase.index("{") + 1 : phrase.index("}")]
        if getattr(a, field) == getattr(b, field):
            continue
        text, other_text = (
            phrase.format(**{field: _format_field(getattr(s, field))}) for s in (a, b)
        )
        raise LimnerError(
            f"mixed sources must agree: the pictures of {typed} {text}, the pictures of "
            f"{other_typed} {other_text}; give {remedy}"
        )
    options = ("training", "flip", "dynamic", "floors")
    for option in options:
        if getattr(first, option) != getattr(other, option):
            raise LimnerError(
                f"mixed sources must agree: {typed} and {other_typed} differ in one of the "
                "options data.split, flip, binarise or levels_by; give each once, for both"
            )


def _format_field(value: object) -> str:
    """Format a field of a specification for a message."""
    if isinstance(value, tuple):
        words = [str(part) for part in value]
        return ", ".join([*words[:4], *(["..."] if len(words) > 4 else [])]) or "none"
    if value is None:
        return "none"
    if isinstance(value, TextSpec):
        return f"{value.length} tokens"
    if isinstance(value, ImageSpec):
        return value.domain or "pictures of " + " x ".join(map(str, value.shape))
    return str(value)
