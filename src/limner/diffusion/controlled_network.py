"""A controlled U-Net: a copy of its encoder adds to the inputs of its decoder.

Zhang, Rao, Agrawala (2023). Adding conditional control to text-to-image diffusion models.
arXiv:2302.05543; see `controlnet`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images
from limner.nn.condition import Signal
from limner.nn.low_rank import LowRank
from limner.nn.plain_unet import PlainUNet
from limner.nn.unet import Encoder, UNet

_HINT_WIDTHS = (16, 32, 96, 256, 256, 256)  # at each halving; the first four are the authors'
MAX_HALVINGS = len(_HINT_WIDTHS) - 1


class HintEncoder(nn.Module):
    """Encoder of a hint to features of a U-Net's first layer; they are 0 at first.

    Args:
        channels: channels of the hint.
        out: channels of the U-Net's first layer.
        halvings: number of times that the hint's sides are halved.
    """

    def __init__(self, channels: int, out: int, halvings: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, _HINT_WIDTHS[0], 3, padding=1)
        self.layers = nn.ModuleList()
        for ins, outs in pairwise(_HINT_WIDTHS[: halvings + 1]):
            self.layers.append(nn.Conv2d(ins, ins, 3, padding=1))
            self.layers.append(nn.Conv2d(ins, outs, 3, padding=1, stride=2))
        self.conv_out = zeros(nn.Conv2d(_HINT_WIDTHS[halvings], out, 3, padding=1))

    def forward(self, hint: Float[Tensor, "b k hh ww"]) -> Float[Tensor, "b out h w"]:
        """Return the features."""
        h = F.silu(self.conv_in(hint))
        for layer in self.layers:
            h = F.silu(layer(h))
        return self.conv_out(h)


class _Encoding(nn.Module):
    """Module that returns all features an encoder passes to the decoder, the middle's last."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self,
        x: Images,
        label: Float[Tensor, "b"],
        signal: Signal,
        hint: Float[Tensor, "b d hh ww"],
    ) -> list[Tensor]:
        features, middle, *_ = self.encoder.encode(x, label, signal, hint)
        return [*features, middle]


class Control(nn.Module):
    """Trainable copy of a network's encoder, followed by zero convolutions.

    Args:
        network: network with the encoder to copy.
        channels: channels of the hint.
        halvings: number of halvings from the hint's size to that of the network's first layer.
        rank: rank of the difference between the copy's weights and the network's, so that the copy
            need not be stored; 0 is a whole copy.
    """

    def __init__(
        self, network: UNet | PlainUNet, channels: int, halvings: int, rank: int = 0
    ) -> None:
        super().__init__()
        self.channels, self.halvings = channels, halvings
        self.hint = HintEncoder(channels, network.conv_in.out_channels, halvings)
        half = network.half().requires_grad_(True)
        self.encoder = None if rank else half
        self.change = LowRank(_Encoding(half), rank) if rank else None
        self.zeros = nn.ModuleList(zeros(nn.Conv2d(w, w, 1)) for w in network.widths())

    def forward(
        self,
        network: Encoder,
        x: Images,
        label: Float[Tensor, "b"],
        signal: Signal,
        hint: Float[Tensor, "b d hh ww"],
    ) -> list[Tensor]:
        """Return what is added to each of the network's features.

        Args:
            network: the controlled network.
            x, label, signal: see `Encoder.encode`.
            hint: the output of `self.hint`.
        """
        if self.change is None:
            assert self.encoder is not None
            features = _Encoding(self.encoder)(x, label, signal, hint)
        else:
            features = self.change(_Encoding(network), x, label, signal, hint)
        return [zero(h) for zero, h in zip(self.zeros, features, strict=True)]

    @torch.no_grad()
    def whole(self, network: UNet | PlainUNet) -> "Control":
        """Return the same control with a whole copy of the encoder; itself if it has one.

        Args:
            network: the network that it was trained with.
        """
        if self.change is None:
            return self
        control = Control(network, self.channels, self.halvings)
        changed = self.change.changed_weights(_Encoding(network))
        weights = {
            name: weight for name, weight in self.state_dict().items() if "change." not in name
        }
        control.load_state_dict(control.state_dict() | weights | changed)
        return control

    def take(self, other: "Control") -> None:
        """Copy another control's weights.

        Raises:
            LimnerError: they have other shapes.
        """
        state, weights = self.state_dict(), other.state_dict()
        if {k: w.shape for k, w in state.items()} != {k: w.shape for k, w in weights.items()}:
            raise LimnerError(
                "this control was trained with a network of other channels or another size; take "
                "the base that it was trained with, or one that was trained with the same options"
            )
        self.load_state_dict(weights)


def zeros(layer: nn.Conv2d) -> nn.Conv2d:
    """Set the weights of a convolution to 0, and return it."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer


ALL_LABELS = (-math.inf, math.inf)


class ControlSettings(NamedTuple):
    """Settings of controls.

    Args:
        weights: weight of each control.
        labels: bounds of the network's time input between which the controls act.
    """

    weights: tuple[float, ...]
    labels: tuple[float, float] = ALL_LABELS


class ControlledNetwork(nn.Module):
    """Network F(x, label, c) of a base with added controls.

    The condition's image is from `ControlNet.with_hint`, so that hints are encoded once for all
    steps.

    Args:
        base: network of the base.
        controls: controls, each of which takes its own part of the image.
        settings: settings of the controls.
    """

    def __init__(
        self, base: UNet | PlainUNet, controls: Sequence[Control], settings: ControlSettings
    ) -> None:
        super().__init__()
        self.base, self.controls, self.settings = base, nn.ModuleList(controls), settings

    def forward(
        self, x: Float[Tensor, "b c h w"], label: Float[Tensor, "b"], c: Condition
    ) -> Float[Tensor, "b out h w"]:
        """Return the output."""
        image, prompt = c.image, replace(c, image=None, present=None)
        assert image is not None, "the condition is hinted"
        signal = self.base.conditioner(prompt, len(x))
        features = self.base.encode(x, label, signal)
        low, high = self.settings.labels
        is_active = (label > low) & (label < high)
        is_always = (low, high) == ALL_LABELS or torch.compiler.is_exporting()
        if is_always or is_active.any():  # any() makes a GPU wait
            width = self.base.conv_in.out_channels
            *hints, present = image.to(x).split([*[width] * len(self.controls), 1], dim=1)
            mask = present[:, :, :1, :1] * is_active.to(x).view(-1, 1, 1, 1)
            for control, weight, hint in zip(self.controls, self.settings.weights, hints):
                if weight:
                    added = control(self.base, x, label, signal, hint)
                    features = features.plus([weight * mask * h for h in added])
        return self.base.decode(features)
