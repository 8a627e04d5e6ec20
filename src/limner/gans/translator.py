"""Base of the picture translators: two domains of the same size, and default sizes of networks."""

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

_MIN_SIDE = 16
_LARGE_SIDE = 256  # pixels from which on CycleGAN's generator has nine blocks


class Translator(Adversarial, Translates):
    """Base of models that generate pictures of domain B from conditioning images of domain A.

    Args:
        spec: specification of domain B's images; its `hint` is that of domain A's images.
    """

    takes = ("hint",)
    condition_dropout = 0.0

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        if spec.hint is None:
            prefix = "paired" if self.needs_pairs else "unpaired"
            raise LimnerError(
                "this model translates pictures between two domains; give two, as "
                f"in {prefix}:emoji:style=3d,emoji:style=flat data.label=none"
            )
        a, b = spec.hint, spec
        if (a.height, a.width) != (b.height, b.width):
            raise LimnerError(
                f"one domain's pictures are {a.height} x {a.width}, the other's {b.height} x "
                f"{b.width}; give data.size={b.height}"
            )
        if min(b.height, b.width) < _MIN_SIDE:
            raise LimnerError(f"this model needs pictures of at least {_MIN_SIDE} x {_MIN_SIDE}")
        self.a, self.b = _plain(a), _plain(b)
        self.spec = replace(self.b, hint=self.a)


def _plain(spec: ImageSpec) -> ImageSpec:
    return replace(spec, labels=(), frequencies=(), text=None, hint=None)


def block_count(count: int | None, spec: ImageSpec) -> int:
    """Return the number of residual blocks, by default 9 from 256 pixels on, and else 6."""
    return count or (9 if min(spec.height, spec.width) >= _LARGE_SIDE else 6)


def layer_count(count: int | None, spec: ImageSpec) -> int:
    """Return a critic's number of strided layers, by default one that suits the size."""
    layers = count or critic_layers(min(spec.height, spec.width))
    if min(spec.height, spec.width) // 2**layers < 4:
        raise LimnerError(
            f"{layers} strided layers of a critic are too many for {spec.height} x {spec.width} "
            "pixels; leave model.critic_layers out"
        )
    return layers


def distance(x: Images, y: Images) -> Float[Tensor, ""]:
    """Return E |x - y|, the mean over pixels and channels."""
    return (x.float() - y.float()).abs().mean()


def scores_of(
    critic: Callable[[Images], Tensor], *pictures: Images
) -> list[Float[Tensor, "_ 1 _ _"]]:
    """Return the scores of several batches, computed in one pass, as float32 even if the critic
    computes in bfloat16.
    """
    sizes = [len(x) for x in pictures]
    return list(critic(torch.cat(pictures)).float().split(sizes))
