"""What a model can do beyond painting. Each ability is a class to derive from: `issubclass` and
`isinstance` ask for it, on the command line, on the page and between models. Those that change
given pictures are in `editing`.

    Mixes       exchanges styles between pictures, layer by layer
    Attends     says where it looks for each word
    Rewords     paints a picture again with words of its prompt changed
    Encodes     has a code for each picture
    Translates  turns pictures of one domain into those of another
    Controlled  is steered by drawings, masks or other pictures
    FirstStage  turns pictures into maps that another model can paint in
    Exports     can become a pipeline of diffusers
    Foreign     was written by another program

Codes are flat, and scaled so that those of pictures are about standard normal:

    reconstruct(x)          decode(encode(x))
    interpolate(a, b)       decode(z_t), z_t on a path from encode(a) to encode(b)
    traverse(x)             decode(z), z being encode(x) but for one coordinate
"""

import contextlib
from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.code_paths import lerp, slerp
from limner.contract.errors import LimnerError
from limner.contract.header import Header
from limner.contract.image import Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel
from limner.contract.noise import Blend, Noise
from limner.contract.rewording import Rewording

_AT_ONCE = 64  # pictures encoded or decoded together
Latents = Float[Tensor, "b d hh ww"]


class Mixes(GenerativeModel):
    """A model whose pictures have styles, layer by layer, which can be mixed."""

    @property
    @abstractmethod
    def style_layers(self) -> int:
        """How many styles a picture has, from coarse to fine."""

    @abstractmethod
    def mix(
        self,
        other: Sequence[int | Blend],
        layers: slice,
        c: Condition = Condition(),
        *,
        seed: Sequence[int | Blend],
        **options: Any,
    ) -> Images:
        """The pictures of seeds, but that some layers have the styles of other seeds' pictures.

        Args:
            other: the seed, for each picture, whose styles are taken.
            layers: where they are taken.
            c: what all pictures, and those that styles are taken from, are of; n rows, one, or no
                parts.
            seed: the pictures' own seeds; the same as `other` gives the seed's own picture.
            options: the model's own, see the signature of `frames`.
        """


class Attends(GenerativeModel):
    """A model that looks at the words of a prompt, place by place."""

    @abstractmethod
    def attention_maps(self, x: Images, c: Condition) -> Float[Tensor, "b l h w"]:
        """How much each place of pictures looks at each token, from 0 to 1; what is missing from
        the sum over the tokens went to none of them.

        Args:
            x: finished pictures, of this model or not, "b c h w" in [-1, 1].
            c: what they are of, with a text; b rows, or one.

        Raises:
            LimnerError: there is no text, or the model looks at no words.
        """


class Controlled(GenerativeModel):
    """A model that conditioning pictures steer, one for each of its controls."""

    @property
    @abstractmethod
    def hints(self) -> Sequence[ImageSpec]:
        """What they are, by control; their channels, one after the other, are `spec.hint`'s."""

    @abstractmethod
    def join(
        self, others: "Sequence[Controlled]", base: GenerativeModel | None = None
    ) -> "Controlled":
        """One model with the controls of several, over another base if one is given."""


class Rewords(GenerativeModel):
    """A model whose pictures follow a change of their prompt, and stay as they are elsewhere."""

    @abstractmethod
    def reword(
        self,
        before: Condition,
        after: Condition,
        change: Rewording,
        *,
        image: Images | None = None,
        strength: float = 1.0,
        seed: int | Sequence[int | Blend] = 0,
        preview: bool = True,
        **options: Any,
    ) -> Iterator[Images]:
        """Yield pictures before and after words of their prompt changed, as `watch` does: "2 n c h
        w", the first n of the one prompt, then those of the other.

        Args:
            before, after: both prompts, a row each, with texts of the same length.
            change: what stays and what changes between them.
            image: pictures that `before` describes, one or one for each seed; else the pictures of
                the seeds are painted.
            strength: of given pictures: how far to go back into noise, in (0, 1].
            seed: for each picture.
            preview, options: as for `GenerativeModel.watch`.

        Raises:
            LimnerError: there is no text, or the model looks at no words.
        """


class FirstStage(GenerativeModel):
    """A model that turns pictures into maps and back, such as a `kl-autoencoder`."""

    latent_shape: tuple[int, int, int]

    @abstractmethod
    def latents(self, x: Images, noise: Noise) -> Latents:
        """A map of each picture."""

    @abstractmethod
    def pictures(self, z: Latents) -> Images:
        """The picture of each map."""


class Exports(GenerativeModel):
    """A model that a pipeline of diffusers can be equal to."""

    @abstractmethod
    def to_diffusers(self) -> Any:
        """The pipeline, with the model's weights.

        Raises:
            LimnerError: diffusers has no equal of this one; the message says of which part.
        """


class Foreign(GenerativeModel):
    """A model that another program wrote; its one option is `folder`."""

    @classmethod
    @abstractmethod
    def header(cls, folder: Path) -> Header:
        """What the folder says of itself, without reading the weights."""

    @classmethod
    @abstractmethod
    def weight_files(cls, folder: Path) -> list[Path]:
        """The files of the weights that are read."""


class Encodes(GenerativeModel):
    """A model that has a code for each picture and a picture for each code."""

    spherical: ClassVar[bool] = True
    """Whether codes are normal by the model's own making, so that paths go along the sphere; else
    they are only scaled like that, and paths are straight."""

    @abstractmethod
    def encode(self, x: Images, c: Condition = Condition()) -> Float[Tensor, "b d"]:
        """The code of each picture; the most probable one, where there are many.

        Args:
            x: pictures in [-1, 1], "b c h w".
            c: what they are of; b rows, or no parts.
        """

    @abstractmethod
    def decode(self, z: Float[Tensor, "b d"], c: Condition = Condition()) -> Images:
        """The picture of each code; the mean one, where there are many.

        Args:
            z: codes.
            c: what the pictures are of; b rows, or no parts.
        """

    def reconstruct(self, x: Images, c: Condition = Condition()) -> Images:
        """What is left of pictures when only their codes are kept, "b c h w" in [-1, 1]."""
        with self._quietly():
            x, c = self._placed(x, c)
            return self._decoded(self._encoded(x, c), c)

    def interpolate(
        self, a: Images, b: Images, steps: int = 8, c: Condition = Condition()
    ) -> Float[Tensor, "n steps c h w"]:
        """Pictures on the paths from some to others, the reconstructions of both included.

        Args:
            a, b: where the n paths begin and end.
            steps: pictures on each path, at least 2.
            c: what all of them are of; one row, n rows, or no parts.

        Raises:
            LimnerError: fewer than two steps, or pictures that do not pair.
        """
        if steps < 2:
            raise LimnerError(f"a path has at least 2 pictures, its ends, not {steps}")
        if len(a) != len(b):
            raise LimnerError(f"{len(a)} pictures cannot be paired with {len(b)}")
        with self._quietly():
            a, c = self._placed(a, c)
            start, end = self._encoded(a, c), self._encoded(b.to(a), c)
            t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
            path = slerp(start, end, t) if self.spherical else lerp(start, end, t)
            painted = self._decoded(path.flatten(0, 1), c.repeat(steps))
            return painted.view(-1, steps, *self.spec.shape)

    def traverse(
        self,
        x: Images,
        coordinates: Sequence[int] | int = 8,
        values: Sequence[float] = (-3, -2, -1, 0, 1, 2, 3),
        c: Condition = Condition(),
    ) -> Float[Tensor, "k v c h w"]:
        """What each coordinate of a code means: the picture with that one at several values.

        Args:
            x: one picture, "1 c h w".
            coordinates: which; or how many, of those that change the picture most.
            values: what the coordinate is set to, one after the other.
            c: what it is of.
        """
        with self._quietly():
            x, c = self._placed(x, c)
            z = self.encode(x, c)
            if isinstance(coordinates, int):
                coordinates = self._telling(z, c, max(map(abs, values)))[:coordinates]
            if not 0 <= min(coordinates) <= max(coordinates) < z.shape[1]:
                raise LimnerError(f"a code of this model has the coordinates 0 to {z.shape[1] - 1}")
            moved = z.repeat(len(coordinates) * len(values), 1)
            shown = moved.view(len(coordinates), len(values), -1)
            for row, coordinate in enumerate(coordinates):
                shown[row, :, coordinate] = torch.tensor(values).to(z)
            painted = self._decoded(moved, c.repeat(len(moved)))
            return painted.view(*shown.shape[:2], *self.spec.shape)

    def _telling(self, z: Float[Tensor, "1 d"], c: Condition, reach: float) -> list[int]:
        """All coordinates, that first whose two extremes differ most in pixels."""
        change: list[Tensor] = []
        for first in range(0, z.shape[1], _AT_ONCE):
            some = [*range(z.shape[1])][first : first + _AT_ONCE]
            moved = z.repeat(2 * len(some), 1).view(2, len(some), -1)
            moved[0, range(len(some)), some], moved[1, range(len(some)), some] = -reach, reach
            low, high = self._decoded(moved.flatten(0, 1), c.repeat(2 * len(some))).chunk(2)
            change.append((high - low).square().flatten(1).sum(1))
        return [int(i) for i in torch.cat(change).argsort(descending=True, stable=True)]

    def _encoded(self, x: Images, c: Condition) -> Float[Tensor, "b d"]:
        """The codes of any number of pictures."""
        parts = [
            self.encode(x[i : i + _AT_ONCE], c.rows(slice(i, i + _AT_ONCE)))
            for i in range(0, len(x), _AT_ONCE)
        ]
        return torch.cat(parts)

    def _decoded(self, z: Float[Tensor, "b d"], c: Condition) -> Images:
        """The pictures of any number of codes, at the border: float32, in [-1, 1]."""
        parts = [
            self.decode(z[i : i + _AT_ONCE], c.rows(slice(i, i + _AT_ONCE)))
            for i in range(0, len(z), _AT_ONCE)
        ]
        return torch.cat(parts).float().clamp(-1, 1)

    def _placed(self, x: Images, c: Condition) -> tuple[Images, Condition]:
        """Pictures and their conditions as the model's networks take them.

        Raises:
            LimnerError: pictures of another shape, or conditions that do not pair with them or that
                the model was trained without.
        """
        if tuple(x.shape[1:]) != self.spec.shape:
            asked, given = " x ".join(map(str, self.spec.shape)), " x ".join(map(str, x.shape[1:]))
            raise LimnerError(f"this model has codes of {asked} pictures, not of {given}")
        c = c.repeat(len(x)) if len(c) == 1 else c
        if len(c) not in (0, len(x)):
            raise LimnerError(f"{len(c)} conditions for {len(x)} pictures; give one, or one each")
        self.check_condition(c)
        dtype = next(self.parameters()).dtype
        return x.to(self.device, dtype), c.to(self.device)

    @contextlib.contextmanager
    def _quietly(self) -> Generator[None, None, None]:
        """In evaluation mode, without gradients."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(training)


Domain = Literal["A", "B"]
"""A translator's two domains: its own pictures are B, its conditioning images A."""


class Translates(GenerativeModel):
    """A model that turns pictures of one domain into those of another.

    Painting is translation, too: of the conditioning images, from A to B.
    """

    condition = "required"
    ways: ClassVar[tuple[Domain, ...]] = ("B",)
    """The domains that it translates to."""

    @abstractmethod
    def translation(self, x: Float[Tensor, "b k h w"], to: Domain, noise: Noise) -> Images:
        """What pictures become in a domain, "b c h w" in [-1, 1].

        Args:
            x: pictures of the other domain, in the model's size.
            to: one of `ways`.
            noise: a random stream for each.
        """

    def translate(
        self,
        x: Float[Tensor, "n k h w"],
        to: str = "B",
        *,
        seed: int | Sequence[int | Blend] = 0,
    ) -> Images:
        """Pictures translated, "n c h w" in [-1, 1]; each is the same alone and among others.

        Args:
            x: pictures of the other domain, "n c h w" in [-1, 1].
            to: the domain that they become pictures of, by letter or name.
            seed: picture i is translated with the random stream of seed + i; or a seed for each.

        Raises:
            LimnerError: no such domain, no way to it, or pictures of another shape.
        """
        domain = self.domain(to)
        wanted = self.spec_of("A" if domain == "B" else "B").shape
        if tuple(x.shape[1:]) != wanted:
            asked, given = (" x ".join(map(str, shape)) for shape in (wanted, x.shape[1:]))
            raise LimnerError(f"this model translates pictures of {asked}, not of {given}")
        training = self.training
        self.eval()
        try:
            noise = Noise.sampling(seed, len(x), str(self.device))
            dtype = next(self.parameters()).dtype
            parts = [slice(i, i + _AT_ONCE) for i in range(0, len(x), _AT_ONCE)]
            with torch.no_grad():
                made = [
                    self.translation(x[rows].to(self.device, dtype), domain, noise.rows(rows))
                    for rows in parts
                ]
            return torch.cat(made).float().clamp(-1, 1)
        finally:
            self.train(training)

    def domain(self, name: str) -> Domain:
        """A domain that can be translated to, by letter or by the data's name of it.

        Raises:
            LimnerError: there is no such domain, or no way to it.
        """
        shown = " and ".join(self.domain_name(letter) for letter in ("A", "B"))
        known: dict[str, Domain] = {}
        for letter in ("B", "A"):
            known[self.spec_of(letter).domain.lower()] = letter
        known |= {"a": "A", "b": "B"}
        asked = name.strip().lower()
        if not asked or asked not in known:
            raise LimnerError(f"'{name}' is no domain of this model; it knows {shown}")
        if known[asked] not in self.ways:
            raise LimnerError(
                f"a {self.name} model translates to {self.domain_name('B')} alone; for the other "
                "way train one with data.direction=BtoA, or a cyclegan"
            )
        return known[asked]

    def domain_name(self, domain: Domain) -> str:
        """A domain for people: its letter, and the name that the data have for it."""
        name = self.spec_of(domain).domain
        return f"{domain} ({name})" if name else domain

    def spec_of(self, domain: Domain) -> ImageSpec:
        """What a domain's pictures are."""
        return self.spec if domain == "B" else self.spec.hint or self.spec

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        """Yield the translations of the conditioning images, which are made at a stroke.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
        """
        assert c.image is not None
        size = self.spec_of("A").shape[1:]
        x = c.image
        if tuple(x.shape[-2:]) != size:
            x = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True)
        yield self.translation(x.to(next(self.parameters()).dtype), "B", noise)
