"""What a model can do besides painting.

Each ability is a base class: the command line, the page and other models test for it with
`issubclass` and `isinstance`. The abilities that change given pictures are in `editing`, the one
that enlarges them is in `upscaling`.

    Mixes            mixes the styles of several pictures, layer by layer
    Attends          returns attention maps for the words of a prompt
    Encodes          has a code for each picture (`limner.contract.codes`)
    Translates       turns pictures of one domain into pictures of another
    Upscales         makes pictures larger (`limner.contract.upscaling`)
    Controlled       is conditioned on drawings, masks or other pictures
    FirstStage       turns pictures into latent maps, in which another model can paint
    ExtractsFeatures extracts features of pictures, as judges do
    Exports          can be exported as a pipeline of diffusers
    Foreign          was saved by another program
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

_BATCH_SIZE = 64  # pictures translated together
Latents = Float[Tensor, "b d hh ww"]


class Mixes(GenerativeModel):
    """A model that can mix the styles of several pictures, layer by layer."""

    @property
    @abstractmethod
    def style_layers(self) -> int:
        """Number of styles of a picture, ordered from coarse to fine."""

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
        """Return the pictures of `seed`, with the styles of some layers taken from those of
        `other`.

        Args:
            other: for each picture, the seed of the picture that provides the styles.
            layers: the layers whose styles are replaced.
            c: the condition of all pictures; n rows, one row, or no parts.
            of: the condition of the pictures that provide the styles; None means the same as `c`.
            seed: the pictures' own seeds; where it equals `other`, a picture is unchanged.
            options: the model's own, see the signature of `frames`.
        """


class Attends(GenerativeModel):
    """A model in which the places of a picture attend to the words of a prompt."""

    @abstractmethod
    def attention_maps(self, x: Images, c: Condition) -> Float[Tensor, "b l h w"]:
        """Return how much each place of pictures attends to each token, from 0 to 1.

        The sum over the tokens may be less than 1: the rest of the attention went to none of them.

        Args:
            x: finished pictures, "b c h w" in [-1, 1]; this model need not have made them.
            c: their condition, with a text; b rows, or one.

        Raises:
            LimnerError: the condition has no text, or the model does not attend to words.
        """


class Controlled(GenerativeModel):
    """A model that is steered by conditioning images, one for each of its controls."""

    @property
    @abstractmethod
    def hints(self) -> Sequence[ImageSpec]:
        """The specification of each control's images; `spec.hint` has all their channels, in this
        order."""

    @abstractmethod
    def join(
        self, others: "Sequence[Controlled]", base: GenerativeModel | None = None
    ) -> "Controlled":
        """Return one model with the controls of several, over another base if one is given."""

    def weights_of_controls(self, weights: Sequence[float] | None) -> tuple[float, ...]:
        """Return one weight for each control, 1 if none are given.

        Raises:
            LimnerError: another number of weights than of controls.
        """
        n = len(self.hints)
        if weights and len(weights) != n:
            controls = "1 control" if n == 1 else f"{n} controls"
            raise LimnerError(
                f"control_weights={','.join(f'{weight:g}' for weight in weights)}: the model has "
                f"{controls}; give one number for each"
            )
        return tuple(weights or (1.0,) * n)


class FirstStage(GenerativeModel):
    """A model that turns pictures into latent maps and back, such as a `kl-autoencoder`."""

    latent_shape: tuple[int, int, int]

    @abstractmethod
    def latents(self, x: Images, noise: Noise) -> Latents:
        """Return the latent map of each picture."""

    @abstractmethod
    def pictures(self, z: Latents) -> Images:
        """Return the picture of each latent map."""


class ExtractsFeatures(Learner):
    """A learner that extracts features of pictures."""

    @abstractmethod
    def features(self, x: Images) -> Float[Tensor, "b d"]:
        """Return the features of pictures, which have the size and channels of `spec`."""


class Exports(GenerativeModel):
    """A model that can be exported as an equivalent pipeline of diffusers."""

    @abstractmethod
    def to_diffusers(self) -> Any:
        """Return the pipeline, with the model's weights.

        Raises:
            LimnerError: diffusers has no equivalent of this model; the message names the part.
        """


class Foreign(GenerativeModel):
    """A model that another program saved; its only option is `folder`."""

    command_arguments: ClassVar[str] = "-m FOLDER"
    """How the model is given on the command line."""

    @classmethod
    @abstractmethod
    def header(cls, folder: Path) -> Header:
        """Return what the folder says about the model, without reading the weights."""

    @classmethod
    @abstractmethod
    def weight_files(cls, folder: Path) -> list[Path]:
        """Return the files that the weights are read from."""


Domain = Literal["A", "B"]
"""The two domains of a translator: its own pictures are B, its conditioning images A."""


class Translates(GenerativeModel):
    """A model that turns pictures of one domain into pictures of another.

    Painting is translation, too: it translates the conditioning images from A to B.
    """

    condition = "required"
    hint_command = "type limner translate FILE -m MODEL"
    ways: ClassVar[tuple[Domain, ...]] = ("B",)
    """The domains that it can translate to."""
    needs_pairs: ClassVar[bool] = False
    """Whether it learns only from pictures and their true counterparts."""

    @classmethod
    def is_random(cls, config: Mapping[str, Any]) -> bool:
        """Return whether the seed changes the translation of a picture."""
        return False

    @abstractmethod
    def translation(self, x: Float[Tensor, "b k h w"], to: Domain, noise: Noise) -> Images:
        """Return the translations of pictures into a domain, "b c h w" in [-1, 1].

        Args:
            x: pictures of the other domain, in the model's size.
            to: one of `ways`.
            noise: a random stream for each picture.
        """

    def translate(
        self,
        x: Float[Tensor, "n k h w"],
        to: str = "B",
        *,
        seed: Seeds = 0,
    ) -> Images:
        """Return the translations of pictures, "n c h w" in [-1, 1].

        A picture has the same translation alone and in a batch.

        Args:
            x: pictures of the other domain, "n c h w" in [-1, 1].
            to: the domain to translate to, by letter or name.
            seed: picture i is translated with the random stream of seed + i; or a seed for each.

        Raises:
            LimnerError: there is no such domain, the model does not translate to it, or pictures
                have another shape.
        """
        domain = self.domain(to)
        check_images(x)
        shape = self.spec_of("A" if domain == "B" else "B").shape
        if tuple(x.shape[1:]) != shape:
            expected, actual = (" x ".join(map(str, s)) for s in (shape, x.shape[1:]))
            raise LimnerError(f"this model translates pictures of {expected}, not of {actual}")
        one_for_each(len(x), Condition())
        noise = Noise.sampling(seed, len(x), str(self.device))
        parts = [slice(i, i + _BATCH_SIZE) for i in range(0, len(x), _BATCH_SIZE)]
        with evaluation_mode(self), torch.no_grad():
            translations = [
                self.translation(x[rows].to(self.device, self.dtype), domain, noise.rows(rows))
                for rows in parts
            ]
        return torch.cat(translations).float().clamp(-1, 1)

    def domain(self, name: str) -> Domain:
        """Return a domain to translate to, given its letter or the data's name for it.

        Raises:
            LimnerError: there is no such domain, or the model does not translate to it.
        """
        choices = " and ".join(self.domain_name(letter) for letter in ("A", "B"))
        domains: dict[str, Domain] = {}
        for letter in ("B", "A"):
            domains[self.spec_of(letter).domain.lower()] = letter
        domains |= {"a": "A", "b": "B"}
        key = str(name).strip().lower()
        if not key or key not in domains:
            raise LimnerError(f"'{name}' is not a domain of this model; it has {choices}")
        if domains[key] not in self.ways:
            raise LimnerError(
                f"{self.name} models translate only to {self.domain_name('B')}; for the other "
                "direction, train one with data.direction=BtoA, or a cyclegan"
            )
        return domains[key]

    def domain_name(self, domain: Domain) -> str:
        """Return a domain as messages show it: its letter, and the data's name for it."""
        name = self.spec_of(domain).domain
        return f"{domain} ({name})" if name else domain

    def spec_of(self, domain: Domain) -> ImageSpec:
        """Return the specification of a domain's pictures."""
        return self.spec if domain == "B" else self.spec.hint or self.spec

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        """Yield the translations of the conditioning images, all in one frame.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
        """
        assert c.image is not None
        size = self.spec_of("A").shape[1:]
        x = c.image
        if tuple(x.shape[-2:]) != size:
            x = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True)
        yield self.translation(x.to(self.dtype), "B", noise)
