"""Pictures of one colour, an observer that sees only colours, and a model that paints them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from limner.contract.image import Batch, Condition, ImageSpec, from_uint8
from limner.contract.model import GenerativeModel, Turn
from limner.contract.noise import Noise
from limner.contract.text import Tokenizer, text_spec
from limner.data import Dataset
from limner.evaluate.extractors.extractor import Features

TEXT = text_spec()
COLOURS = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0),
    "pink": (255, 0, 255), "turquoise": (0, 255, 255), "white": (255, 255, 255),
    "black": (0, 0, 0), "grey": (128, 128, 128), "brown": (128, 64, 0), "orange": (255, 128, 0),
    "violet": (128, 0, 255),
}  # fmt: skip
NAMES = tuple(COLOURS)
RGB = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
TOKENS = Tokenizer(TEXT).encode(NAMES)
SPEC = ImageSpec(3, 6, 6, labels=NAMES, text=TEXT)


def shades(colours: Tensor, noise: Noise, spread: float) -> Tensor:
    """Return uint8 pictures of these colours: each pixel differs by up to `spread` levels."""
    offset = (noise.uniform(3, 6, 6) * 2 - 1) * spread
    return (RGB[colours][:, :, None, None] + offset).round().clamp(0, 255).to(torch.uint8)


class Shades(Dataset):
    """A dataset of pictures whose class and caption are their colour."""

    source = "shades"

    def __init__(self, n: int, *, seed: int = 0, training: bool = True) -> None:
        self.spec = SPEC
        self.training = training
        self.labels = torch.arange(n) % len(NAMES)
        self._pixels = shades(self.labels, Noise.keyed(seed, 0, range(n)), 30)
        self.seen: list[int] = []
        """The indices that were requested."""

    def __len__(self) -> int:
        return len(self._pixels)

    def pixels(self, indices: Tensor) -> Tensor:
        self.seen += indices.tolist()
        return self._pixels[indices]

    def captions(self, indices: Tensor, noise: Noise) -> list[str]:
        assert self.labels is not None
        return [NAMES[label] for label in self.labels[indices].tolist()]


class Eye:
    """An observer: features are means and deviations of the colours; it also scores captions."""

    name = "eye"
    fingerprint = "eye-1"
    dim = 6
    classes = NAMES
    text = TEXT

    def __init__(self) -> None:
        self.seen = self.most = 0

    def __call__(self, images: Tensor) -> Features:
        self.seen += len(images)
        self.most = max(self.most, len(images))
        x = images.double().flatten(2)
        features = torch.cat([x.mean(2), x.std(2)], 1)
        return Features(features, -self.apart(images, RGB) / 64)

    def similarity(self, images: Tensor, text: Tensor) -> Tensor:
        colour = (text[:, None] == TOKENS).all(2).double().argmax(1)
        return 1 - self.apart(images, RGB[colour]) / 512

    def apart(self, images: Tensor, colours: Tensor) -> Tensor:
        return torch.cdist(images.double().flatten(2).mean(2), colours.double())


class Painter(GenerativeModel):
    """A model that paints the colour of its prompt, or with probability `deafness` any colour."""

    def __init__(self, spec: ImageSpec, deafness: float = 0.0, spread: float = 40.0) -> None:
        super().__init__()
        self.deafness, self.spread = deafness, spread
        self.register_buffer("unused", torch.zeros(1))
        self.painted: list[int] = []

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        raise NotImplementedError
        yield

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Tensor]:
        assert c.text is not None
        self.painted.append(n)
        colour = (c.text[:, None] == TOKENS).all(2).double().argmax(1)
        deaf = noise.uniform() < self.deafness
        colour = torch.where(deaf, noise.integers(len(NAMES)), colour)
        yield from_uint8(shades(colour, noise, self.spread))
