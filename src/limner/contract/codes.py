"""A code for each picture: what `limner reconstruct` and `limner interpolate` need of a model.

Codes are flat, and scaled such that the codes of pictures are about standard normal:

    reconstruct(x)          decode(encode(x))
    interpolate(a, b)       decode(z_t), where z_t is on a path from encode(a) to encode(b)
    traverse(x)             decode(z), where z is encode(x) except for one coordinate
"""

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.code_paths import lerp, slerp
from limner.contract.errors import LimnerError
from limner.contract.evaluation_mode import evaluation_mode
from limner.contract.image import Condition, Images, check_images, one_for_each
from limner.contract.model import GenerativeModel
from limner.contract.torch_defaults import usual_tensors

_BATCH_SIZE = 64  # pictures encoded or decoded together


def _checking(encode: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make `encode` check its pictures, and run in evaluation mode."""

    @functools.wraps(encode)
    def wrapper(self: "Encodes", x: Images, c: Condition = Condition()) -> Float[Tensor, "b d"]:
        if not isinstance(x, Tensor) or not x.is_floating_point():  # pyright: ignore
            check_images(x)  # not the range: a map of latent diffusion has any
        self.check_shape(x)
        weight = max(self.parameters(), key=Tensor.numel, default=x)  # without any, of any type
        with usual_tensors(), evaluation_mode(self):
            return encode(self, x.to(weight), c)

    return wrapper


class Encodes(GenerativeModel):
    """A model that has a code for each picture and a picture for each code."""

    spherical: ClassVar[bool] = True
    """Whether the model itself makes codes normal, so that paths follow the sphere; otherwise codes
    are only scaled to it, and paths are straight."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "encode" in cls.__dict__:
            cls.encode = _checking(cls.encode)

    @abstractmethod
    def encode(self, x: Images, c: Condition = Condition()) -> Float[Tensor, "b d"]:
        """Return the code of each picture; if it has several, the most probable one.

        Args:
            x: pictures in [-1, 1], "b c h w".
            c: the condition of the pictures; b rows, or no parts.
        """

    @abstractmethod
    def decode(self, z: Float[Tensor, "b d"], c: Condition = Condition()) -> Images:
        """Return the picture of each code; if it has several, their mean.

        Args:
            z: codes.
            c: the condition of the pictures; b rows, or no parts.
        """

    def reconstruct(self, x: Images, c: Condition = Condition()) -> Images:
        """Return the pictures decoded from the codes of x, "b c h w" in [-1, 1]."""
        with usual_tensors(), evaluation_mode(self), torch.no_grad():
            x, c = self._prepare_input(x, c)
            return self._decode_all(self._encode_all(x, c), c)

    def interpolate(
        self, a: Images, b: Images, steps: int = 8, c: Condition = Condition()
    ) -> Float[Tensor, "n steps c h w"]:
        """Return pictures on the paths between pairs of pictures, including the reconstructions of
        both.

        Args:
            a, b: the pictures at the start and the end of the n paths.
            steps: the number of pictures on each path, at least 2.
            c: the condition of all pictures; one row, n rows, or no parts.

        Raises:
            LimnerError: fewer than two steps, or different numbers of pictures.
        """
        if steps < 2:
            raise LimnerError(f"a path has at least 2 pictures, its ends, not {steps}")
        if len(a) != len(b):
            raise LimnerError(f"{len(a)} pictures cannot be paired with {len(b)}")
        with usual_tensors(), evaluation_mode(self), torch.no_grad():
            b, _ = self._prepare_input(b, c)
            a, c = self._prepare_input(a, c)
            start, end = self._encode_all(a, c), self._encode_all(b, c)
            t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
            path = slerp(start, end, t) if self.spherical else lerp(start, end, t)
            pictures = self._decode_all(path.flatten(0, 1), c.repeat(steps))
            return pictures.view(-1, steps, *self.spec.shape)

    def traverse(
        self,
        x: Images,
        coordinates: Sequence[int] | int = 8,
        values: Sequence[float] = (-3, -2, -1, 0, 1, 2, 3),
        c: Condition = Condition(),
    ) -> Float[Tensor, "k v c h w"]:
        """Show what each coordinate of a code means: return the picture with it set to several
        values.

        Args:
            x: one picture, "1 c h w".
            coordinates: the coordinates; or a number k, for the k coordinates that change the
                picture most.
            values: the values that a coordinate is set to, one after the other.
            c: the condition of the picture.

        Raises:
            LimnerError: several pictures, coordinates that codes do not have, or none.
        """
        if len(x) != 1:
            raise LimnerError(f"x has {len(x)} pictures, and must have one; give x[:1]")
        coordinates = getattr(coordinates, "tolist", lambda: coordinates)()  # of numpy or torch
        is_count = isinstance(coordinates, int)
        if (coordinates < 1 if is_count else not len(coordinates)) or not len(values):
            raise LimnerError("nothing would change; give at least one coordinate and one value")
        with usual_tensors(), evaluation_mode(self), torch.no_grad():
            x, c = self._prepare_input(x, c)
            z = self.encode(x, c)
            if isinstance(coordinates, int):
                coordinates = self._rank_coordinates(z, c, max(map(abs, values)))[:coordinates]
            if not 0 <= min(coordinates) <= max(coordinates) < z.shape[1]:
                raise LimnerError(f"a code of this model has the coordinates 0 to {z.shape[1] - 1}")
            codes = z.repeat(len(coordinates) * len(values), 1)
            grid = codes.view(len(coordinates), len(values), -1)
            for row, coordinate in enumerate(coordinates):
                grid[row, :, coordinate] = torch.tensor(values).to(z)
            pictures = self._decode_all(codes, c.repeat(len(codes)))
            return pictures.view(*grid.shape[:2], *self.spec.shape)

    def _rank_coordinates(self, z: Float[Tensor, "1 d"], c: Condition, reach: float) -> list[int]:
        """Return all coordinates; the first is the one whose two extremes differ most in pixels."""
        changes: list[Tensor] = []
        for first in range(0, z.shape[1], _BATCH_SIZE):
            chunk = [*range(z.shape[1])][first : first + _BATCH_SIZE]
            codes = z.repeat(2 * len(chunk), 1).view(2, len(chunk), -1)
            codes[0, range(len(chunk)), chunk], codes[1, range(len(chunk)), chunk] = -reach, reach
            low, high = self._decode_all(codes.flatten(0, 1), c.repeat(2 * len(chunk))).chunk(2)
            changes.append((high - low).square().flatten(1).sum(1))
        return [int(i) for i in torch.cat(changes).argsort(descending=True, stable=True)]

    def _encode_all(self, x: Images, c: Condition) -> Float[Tensor, "b d"]:
        """Return the codes of any number of pictures."""
        parts = [
            self.encode(x[i : i + _BATCH_SIZE], c.rows(slice(i, i + _BATCH_SIZE)))
            for i in range(0, len(x), _BATCH_SIZE)
        ]
        return torch.cat(parts)

    def _decode_all(self, z: Float[Tensor, "b d"], c: Condition) -> Images:
        """Return the pictures of any number of codes, as float32 in [-1, 1]."""
        parts = [
            self.decode(z[i : i + _BATCH_SIZE], c.rows(slice(i, i + _BATCH_SIZE)))
            for i in range(0, len(z), _BATCH_SIZE)
        ]
        return torch.cat(parts).float().clamp(-1, 1)

    def check_shape(self, x: Images) -> None:
        """Refuse pictures of another shape than the model's."""
        if tuple(x.shape[1:]) != self.spec.shape:
            shape, other = " x ".join(map(str, self.spec.shape)), " x ".join(map(str, x.shape[1:]))
            raise LimnerError(f"this model has codes of {shape} pictures, not of {other}")

    def _prepare_input(self, x: Images, c: Condition) -> tuple[Images, Condition]:
        """Check pictures and their conditions, and move them to the model's device and type.

        Raises:
            LimnerError: no pictures or pictures of another shape, or conditions that do not pair
                with them or that the model was trained without.
        """
        check_images(x)
        self.check_shape(x)
        c = one_for_each(len(x), c)
        self.check_condition(c)
        return x.to(self.device, self.dtype), c.to(self.device)
