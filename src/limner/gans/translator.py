"""What translators of pictures share: two domains of one size, a generator, a critic of patches."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.abilities import Translates
from limner.contract.errors import LimnerError
from limner.contract.image import Images, ImageSpec
from limner.gans.adversarial_model import Adversarial
from limner.gans.translation_networks import critic_layers

_SMALLEST = 16
_MANY = 256  # pixels from which on CycleGAN's generator has nine blocks


class Translator(Adversarial, Translates):
    """A model of domain B's pictures, each made from one of domain A, its conditioning image.

    Args:
        spec: of domain B's pictures; its `hint` is that of A's.
    """

    takes = ("hint",)
    condition_dropout = 0.0

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        if spec.hint is None:
            how = "paired" if self.needs_pairs else "unpaired"
            raise LimnerError(
                "this model translates pictures of one domain into those of another; give two, as "
                f"in {how}:emoji:style=3d,emoji:style=flat data.label=none"
            )
        a, b = spec.hint, spec
        if (a.height, a.width) != (b.height, b.width):
            raise LimnerError(
                f"one domain's pictures are {a.height} x {a.width}, the other's {b.height} x "
                f"{b.width}; give data.size={b.height}"
            )
        if min(b.height, b.width) < _SMALLEST:
            raise LimnerError(f"this model needs pictures of at least {_SMALLEST} x {_SMALLEST}")
        self.a, self.b = _plain(a), _plain(b)
        self.spec = replace(self.b, hint=self.a)


def _plain(spec: ImageSpec) -> ImageSpec:
    return replace(spec, labels=(), frequencies=(), text=None, hint=None)


def block_count(asked: int | None, spec: ImageSpec) -> int:
    """Residual blocks: as many as asked for, or 9 for pictures of 256 pixels and more, else 6."""
    return asked or (9 if min(spec.height, spec.width) >= _MANY else 6)


def layer_count(asked: int | None, spec: ImageSpec) -> int:
    """Strided layers of a critic: as many as asked for, or what suits the size."""
    layers = asked or critic_layers(min(spec.height, spec.width))
    if min(spec.height, spec.width) // 2**layers < 4:
        raise LimnerError(
            f"{layers} strided layers of a critic are too many for {spec.height} x {spec.width} "
            "pixels; leave model.critic_layers out"
        )
    return layers


def distance(x: Images, y: Images) -> Float[Tensor, ""]:
    """E |x - y|, the mean over pixels and channels."""
    return (x.float() - y.float()).abs().mean()


def scores_of(
    critic: Callable[[Images], Tensor], *pictures: Images
) -> list[Float[Tensor, "_ 1 _ _"]]:
    """Scores of several batches in one pass: as float32 numbers, though the critic may compute in
    bfloat16.
    """
    sizes = [len(x) for x in pictures]
    return list(critic(torch.cat(pictures)).float().split(sizes))
