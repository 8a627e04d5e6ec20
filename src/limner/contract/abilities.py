"""What a model can do beyond painting. Each ability is a class to derive from: `issubclass` and
`isinstance` ask for it, on the command line, on the page and between models. Those that change
given pictures are in `editing`, the one that enlarges them in `upscaling`.

    Mixes       exchanges styles between pictures, layer by layer
    Attends     says where it looks for each word
    Encodes     has a code for each picture (`limner.contract.codes`)
    Translates  turns pictures of one domain into those of another
    Upscales    makes pictures larger (`limner.contract.upscaling`)
    Controlled  is steered by drawings, masks or other pictures
    FirstStage  turns pictures into maps that another model can paint in
    Features    sees features in pictures, as judges do
    Exports     can become a pipeline of diffusers
    Foreign     was written by another program
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.evaluation_mode import evaluation_mode
from limner.contract.header import Header
from limner.contract.image import Condition, Images, ImageSpec, check_images, one_for_each
from limner.contract.model import GenerativeModel, Learner
from limner.contract.noise import Blend, Noise, Seeds

_AT_ONCE = 64  # pictures translated together
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
        of: Condition | None = None,
        seed: Sequence[int | Blend],
        **options: Any,
    ) -> Images:
        """The pictures of seeds, but that some layers have the styles of other seeds' pictures.

        Args:
            other: the seed, for each picture, whose styles are taken.
            layers: where they are taken.
            c: what all pictures are of; n rows, one, or no parts.
            of: what those are of that styles are taken from; the same where it is None.
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


class FirstStage(GenerativeModel):
    """A model that turns pictures into maps and back, such as a `kl-autoencoder`."""

    latent_shape: tuple[int, int, int]

    @abstractmethod
    def latents(self, x: Images, noise: Noise) -> Latents:
        """A map of each picture."""

    @abstractmethod
    def pictures(self, z: Latents) -> Images:
        """The picture of each map."""


class Features(Learner):
    """A learner that sees features in pictures."""

    @abstractmethod
    def features(self, x: Images) -> Float[Tensor, "b d"]:
        """What is seen in pictures of the size and channels of `spec`."""


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

    named_by: ClassVar[str] = "-m FOLDER"
    """How the command line is told of it."""

    @classmethod
    @abstractmethod
    def header(cls, folder: Path) -> Header:
        """What the folder says of itself, without reading the weights."""

    @classmethod
    @abstractmethod
    def weight_files(cls, folder: Path) -> list[Path]:
        """The files of the weights that are read."""


Domain = Literal["A", "B"]
"""A translator's two domains: its own pictures are B, its conditioning images A."""


class Translates(GenerativeModel):
    """A model that turns pictures of one domain into those of another.

    Painting is translation, too: of the conditioning images, from A to B.
    """

    condition = "required"
    ways: ClassVar[tuple[Domain, ...]] = ("B",)
    """The domains that it translates to."""
    needs_pairs: ClassVar[bool] = False
    """Whether it learns only from pictures and their true counterparts."""

    @classmethod
    def is_random(cls, config: Mapping[str, Any]) -> bool:
        """Whether the seed changes what a picture becomes."""
        return False

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
        seed: Seeds = 0,
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
        check_images(x)
        wanted = self.spec_of("A" if domain == "B" else "B").shape
        if tuple(x.shape[1:]) != wanted:
            asked, given = (" x ".join(map(str, shape)) for shape in (wanted, x.shape[1:]))
            raise LimnerError(f"this model translates pictures of {asked}, not of {given}")
        one_for_each(len(x), Condition())
        noise = Noise.sampling(seed, len(x), str(self.device))
        parts = [slice(i, i + _AT_ONCE) for i in range(0, len(x), _AT_ONCE)]
        with evaluation_mode(self), torch.no_grad():
            made = [
                self.translation(x[rows].to(self.device, self.dtype), domain, noise.rows(rows))
                for rows in parts
            ]
        return torch.cat(made).float().clamp(-1, 1)

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
                f"{self.name} models translate to {self.domain_name('B')} alone; for the other "
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
        yield self.translation(x.to(self.dtype), "B", noise)
