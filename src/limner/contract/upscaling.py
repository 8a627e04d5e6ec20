"""The ability to enlarge pictures of any size: tile by tile, and without seams.

    y = sum_k w_k U(x_k) / sum_k w_k,   x_k the tiles of x

A tile's weight w_k is 0 near the tile's border (`margin`), where the model U would need what lies
beyond it. The weight grows linearly over the rest of the overlap, and is 1 elsewhere; it is 1 up to
the border of the picture itself. If a model's output depends on nothing further away than its
margin, y is the enlargement of the whole picture.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.evaluation_mode import evaluation_mode
from limner.contract.image import Condition, Images, ImageSpec, check_images, one_for_each
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise, Seeds

_MAX_PIXELS = 2**26  # largest number of pixels of an enlarged picture
_MAX_FACTOR = 64


def resize(x: Float[Tensor, "b c h w"], height: int, width: int) -> Float[Tensor, "b c hh ww"]:
    """Resize pictures with the antialiased bicubic filter that is also used to read data."""
    if tuple(x.shape[-2:]) == (height, width):
        return x
    return F.interpolate(x, (height, width), mode="bicubic", antialias=True).clamp(-1, 1)


def tile_starts(length: int, tile: int, margin: int) -> list[int]:
    """Return where tiles start along a side: evenly spaced, and the fewest that overlap by more
    than two margins.

    >>> tile_starts(20, 8, 1), tile_starts(5, 8, 1)
    ([0, 4, 8, 12], [0])
    """
    if length <= tile:
        return [0]
    margin = min(margin, (tile - 1) // 4)
    step = max(1, tile - 2 * margin - max(1, margin))
    count = math.ceil((length - tile) / step)
    return [round(i * (length - tile) / count) for i in range(count + 1)]


def tile_weights(
    starts: Sequence[int], tile: int, margin: int, factor: int
) -> list[Float[Tensor, "s"]]:
    """Return the weights of each enlarged tile along a side, one for each pixel.

    Args:
        starts: where the tiles start.
        tile: the side of a tile, before it is enlarged.
        margin: the number of pixels that get weight 0 next to another tile.
        factor: the factor of the enlargement.
    """
    weights: list[Tensor] = []
    margin = min(margin, (tile - 1) // 4)
    position = torch.arange(tile * factor, dtype=torch.float64) + 0.5
    for i, start in enumerate(starts):
        weight = torch.ones_like(position)
        cut = margin * factor
        if i > 0:
            ramp = (starts[i - 1] + tile - start) * factor - 2 * cut
            weight *= ((position - cut) / ramp).clamp(0, 1)
        if i + 1 < len(starts):
            ramp = (start + tile - starts[i + 1]) * factor - 2 * cut
            weight *= ((tile * factor - cut - position) / ramp).clamp(0, 1)
        weights.append(weight.float())
    return weights


class Tiles:
    """The tiles of pictures of one size, which are cut, enlarged and joined again.

    Args:
        height, width: the size of the pictures.
        tile: the height and width of a tile.
        margin: see the module; for small tiles it is less than a quarter of the side.
        factor: the factor of the enlargement.
    """

    def __init__(
        self, height: int, width: int, tile: tuple[int, int], margin: int, factor: int
    ) -> None:
        self.size, self.tile, self.factor = (height, width), tile, factor
        sides = list(zip(self.size, tile))
        self.starts = [tile_starts(length, side, margin) for length, side in sides]
        self.weights = [
            tile_weights(starts, side, margin, factor) for starts, side in zip(self.starts, tile)
        ]
        self.places = [
            (i, j) for i in range(len(self.starts[0])) for j in range(len(self.starts[1]))
        ]

    def __len__(self) -> int:
        """Return the number of tiles of a picture."""
        return len(self.places)

    def cut(self, x: Float[Tensor, "b c h w"], scale: int = 1) -> Float[Tensor, "bt c th tw"]:
        """Return the tiles of pictures, those of one picture together; a picture smaller than a
        tile is padded with its border pixels.

        Args:
            x: the pictures, of this size or `scale` times as large.
            scale: 1, or the factor.
        """
        height, width = (side * scale for side in self.tile)
        padding = max(0, height - x.shape[-2]), max(0, width - x.shape[-1])
        x = F.pad(x, (0, padding[1], 0, padding[0]), mode="replicate")
        parts = [
            x[..., top * scale : top * scale + height, left * scale : left * scale + width]
            for top, left in ((self.starts[0][i], self.starts[1][j]) for i, j in self.places)
        ]
        return torch.stack(parts, 1).flatten(0, 1)

    def join(self, y: Float[Tensor, "bt c th tw"]) -> Float[Tensor, "b c hh ww"]:
        """Join enlarged tiles to pictures; overlapping tiles are blended."""
        f, (height, width) = self.factor, (side * self.factor for side in self.size)
        parts = y.unflatten(0, (-1, len(self)))
        shape = [max(side, tile) * f for side, tile in zip(self.size, self.tile)]
        total = y.new_zeros(len(parts), y.shape[1], *shape)
        weight = y.new_zeros(*shape)
        for k, (i, j) in enumerate(self.places):
            w = torch.outer(self.weights[0][i], self.weights[1][j]).to(y)
            top, left = self.starts[0][i] * f, self.starts[1][j] * f
            rows = slice(top, top + self.tile[0] * f), slice(left, left + self.tile[1] * f)
            total[..., rows[0], rows[1]] += w * parts[:, k]
            weight[rows] += w
        return (total / weight)[..., :height, :width]


class Upscales(GenerativeModel):
    """A model that makes pictures larger: its conditioning image is the small picture."""

    condition = "required"
    hint_command = "type limner upscale FILE -m MODEL"
    margin: ClassVar[int] = 4
    """Width of a tile's border, in small pixels, where a picture is made only from the next
    tile."""

    @property
    def factor(self) -> int:
        """The factor by which height and width of pictures are enlarged in one pass."""
        assert self.spec.hint is not None
        return self.spec.height // self.spec.hint.height

    @property
    def tile(self) -> tuple[int, int]:
        """The height and width of the small pictures that the model was trained on."""
        assert self.spec.hint is not None
        return self.spec.hint.height, self.spec.hint.width

    def tile_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the tiles to enlarge a picture of some size; a network for
        pictures of any size may return another size than `tile`."""
        return self.tile

    @abstractmethod
    def enlargement(
        self, x: Float[Tensor, "b c h w"], c: Condition, noise: Noise, **options: Any
    ) -> Float[Tensor, "b c hh ww"]:
        """Return pictures of a tile's size, enlarged `factor` times, in [-1, 1].

        Args:
            x: the small pictures, in [-1, 1].
            c: their labels and captions, if they have any; no image.
            noise: a random stream for each picture.
            options: sampling options of the model, see the signature of `frames`.
        """

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        """Yield the enlarged conditioning images, all in one frame.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
        """
        assert c.image is not None
        x = resize(c.image, *self.tile).to(self.dtype)
        yield self.enlargement(x, replace(c, image=None, present=None), noise)

    def upscale(
        self,
        x: Float[Tensor, "n k h w"],
        factor: float | None = None,
        c: Condition = Condition(),
        *,
        seed: Seeds = 0,
        **options: Any,
    ) -> Float[Tensor, "n k hh ww"]:
        """Enlarge pictures of any size; a picture's result is the same alone and in a batch.

        A factor beyond the model's own is reached in stages, each of which enlarges the result of
        the one before it. If a stage would make the picture too large, its input is first reduced,
        but not below the size of the given picture. What is still too large is reduced at the end.

        Args:
            x: pictures in [-1, 1]: grey or colour, with or without alpha as the last channel, which
                is enlarged with the bicubic filter.
            factor: the factor of height and width, from 1 to 64; None means the model's own.
            c: their labels and captions, if known: n rows, one, or no parts.
            seed: picture i is made with the random stream of seed + i; or a seed for each.
            options: sampling options of the model, see the signature of `frames`.

        Raises:
            LimnerError: an unknown option, a factor out of range, pictures of another shape, or a
                result of more than 2^26 pixels.
        """
        check_images(x)
        if x.ndim != 4 or 0 in x.shape[1:]:
            shape = " x ".join(map(str, x.shape))
            raise LimnerError(f'pictures are "n k h w", not {shape}; x[None] makes one of "k h w"')
        factor = float(self.factor if factor is None else factor)
        n, k, height, width = x.shape
        check_enlargement((height, width), factor)
        size = round(height * factor), round(width * factor)
        values = self.sampler_options(options)
        c = one_for_each(n, c)
        self.check_condition(c)
        noise = Noise.sampling(seed, n, str(self.device))
        with evaluation_mode(self), torch.no_grad():
            x = x.to(self.device, torch.float32)
            colours, alpha = (x[:, :-1], x[:, -1:]) if k in (2, 4) else (x, None)
            if alpha is not None:
                colours = _fill_transparent(colours, alpha)
            pictures = as_channels(colours, self.spec.channels)
            while pictures.shape[-2] < size[0] or pictures.shape[-1] < size[1]:
                smallest = [max(a, -(-b // self.factor)) for a, b in zip((height, width), size)]
                if pictures.shape[-2] > smallest[0] and pictures.shape[-1] > smallest[1]:
                    pictures = resize(pictures, *smallest)
                pictures = self.stage(pictures, c.to(self.device), noise, **values)
            result = as_channels(resize(pictures, *size), colours.shape[1])
            if alpha is None:
                return result
            return torch.cat([result, resize(alpha, *size)], 1)

    def stage(
        self, x: Float[Tensor, "b c h w"], c: Condition, noise: Noise, **options: Any
    ) -> Float[Tensor, "b c hh ww"]:
        """Enlarge pictures of any size `factor` times, tile by tile.

        Args:
            x, c, noise, options: see `enlargement`.
        """
        height, width = x.shape[-2:]
        tile = self.tile_size(height, width)
        tiles = Tiles(height, width, tile, self.margin, self.factor)
        small = tiles.cut(x)
        owner = torch.arange(len(x), device=self.device).repeat_interleave(len(tiles))
        parts: list[Tensor] = []
        for first in range(0, len(small), self.at_once):
            rows = slice(first, first + self.at_once)
            condition = c.rows(owner[rows]) if len(c) else c
            part = self.enlargement(
                small[rows].to(self.dtype), condition, noise.rows(owner[rows]), **options
            )
            parts.append(part.float().clamp(-1, 1))
        return tiles.join(torch.cat(parts))


def check_enlargement(size: tuple[int, int], factor: float) -> None:
    """Refuse a factor or a size that is out of range.

    Raises:
        LimnerError: a factor below 1 or above 64, or more than 2^26 pixels.
    """
    if not 1 <= factor <= _MAX_FACTOR:
        raise LimnerError(f"factor={factor:g} is not from 1 to {_MAX_FACTOR}; give another one")
    if size[0] * size[1] * factor**2 > _MAX_PIXELS:
        raise LimnerError(
            f"{size[1]} x {size[0]} pixels {factor:g} times as large are more than {_MAX_PIXELS:,}"
            "; give a smaller factor"
        )


def as_channels(x: Float[Tensor, "b c h w"], channels: int) -> Float[Tensor, "b k h w"]:
    """Return pictures with another number of channels; each of them is the mean of the
    given ones."""
    if x.shape[1] == channels:
        return x
    return x.mean(1, keepdim=True).expand(-1, channels, -1, -1)


def check_small(spec: ImageSpec) -> None:
    """Refuse data whose conditioning images are not the pictures at a lower resolution.

    Raises:
        LimnerError: they have none, or their size times a whole number is not the size of the
            pictures.
    """
    small = spec.hint
    if small is None:
        raise LimnerError(
            "this model enlarges pictures; give data.hint=lowres, and data.reduction=4 for a "
            "quarter of the side"
        )
    if small.channels != spec.channels:
        raise LimnerError(
            f"this model enlarges pictures of {spec.channels} channels, and these conditioning "
            f"images have {small.channels}; give data.hint=lowres"
        )
    factor = spec.height // small.height
    if factor < 2 or (spec.height, spec.width) != (factor * small.height, factor * small.width):
        raise LimnerError(
            f"{spec.height} x {spec.width} is not {small.height} x {small.width} times a whole "
            "number of at least 2; give another data.size or data.reduction"
        )


def _fill_transparent(
    colours: Float[Tensor, "b c h w"], alpha: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b c h w"]:
    """Return colours in which transparent pixels have the colour of the nearest visible ones."""
    opacity = (alpha + 1) / 2
    weighted, coverage = colours * opacity, opacity
    total, weight, side = weighted, coverage, 1
    while bool((weight == 0).any()) and side < 2 * max(colours.shape[-2:]):
        side = 2 * side + 1
        pool = {"kernel_size": side, "stride": 1, "padding": side // 2, "count_include_pad": True}
        mean, count = (F.avg_pool2d(x, **pool) for x in (weighted, coverage))
        empty = weight == 0
        total, weight = torch.where(empty, mean, total), torch.where(empty, count, weight)
    fill = total / weight.clamp(min=1e-12)
    return torch.where(opacity > 0, colours, torch.where(weight > 0, fill, torch.ones_like(fill)))
