"""ControlNet: a conditioning picture that sets the layout, for a denoiser trained without one.

Zhang, Rao, Agrawala (2023). Adding conditional control to text-to-image diffusion models.
arXiv:2302.05543.

The encoder half of the base's U-Net is copied, and only the copy is trained; the base is frozen. A
small network turns the hint h (edges, a mask, ...) into features of the copy's first layer.
Convolutions Z, initialised with 0, connect the copy to the base's decoder:

    passed_i = base_i(x_t, t, c) + s Z_i(copy_i(x_t, t, c, h))    i over the layers joined (eq. 2)

So at first the model is the base, bit for bit. Training hides the prompt half of the time, so that
the copy learns to use the hint (section 3.4). Several controls are added, each with its weight
(section 3.4, composing).

Kept: the copy, the zero convolutions, the hint's network as in the authors' code, the hidden
prompt, the hint in both halves of classifier-free guidance. Different: the base is any model of
this library with a `UNet` or a `PlainUNet` as its network, on pixels or in the latent space of an
autoencoder. The copy gets the caption from the base's own text encoder, which is not copied. It
learns as a whole, as in the paper, or only a low-rank change of it is learnt, which makes a small
file (Hu et al. (2021), arXiv:2106.09685). A control may be left out for a part of the steps, as in
diffusers. Left out: the weighting of guidance by resolution.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Unpack

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from limner.contract.abilities import Controlled
from limner.contract.editing import Rewords
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel, Turn
from limner.contract.noise import Noise, Seeds
from limner.contract.options import Count, Natural, Share
from limner.contract.registry import Paper, register
from limner.contract.rewording import Rewording
from limner.data.hints import BINARY
from limner.diffusion.controlled_network import (
    ALL_LABELS,
    MAX_HALVINGS,
    Control,
    ControlledNetwork,
    ControlSettings,
)
from limner.diffusion.frozen_base import Base, ExtendsBase, checked_base, with_network
from limner.diffusion.latent_diffusion import LatentDiffusion
from limner.diffusion.sampling import Edit, Plan, Scale, WalkOptions

_SUDDEN_RISE = 0.15  # rise of adherence between two evaluations that is reported
Strength = Annotated[float, Field(ge=0, le=2)]


@register(
    "controlnet",
    family="diffusion",
    paper=Paper(
        "Adding conditional control to text-to-image diffusion models",
        "Zhang, Rao, Agrawala",
        2023,
        "2302.05543",
    ),
    tiny={"base": {"model": "flow-matching", "spec": {"hint": None}}},
    train={"lr": 5e-4, "clip": 1.0, "ema": 0.999},
)
class ControlNet(ExtendsBase, Rewords, Controlled):
    """ControlNet: a drawing, a mask or boxes control a denoiser that was trained without them.

    Args:
        spec: specification of the images, and their hints (data.hint).
        base: a trained denoising model of the same data; as in train.init.base="runs/NAME".
        prompt_dropout: probability that training hides label and text, but not the hint.
        planes: for several controls, the number of the hint's channels that each takes; by default
            one control takes all.
        formats: for several controls, the levels, height and width of the hints of each; by default
            those of the data.
        rank: rank of the change to each of the encoder's weights; 0 trains a whole copy of them.

    Raises:
        LimnerError: the data have no hints; or the base does not denoise, was trained on other
            data, or works on patches to which a hint cannot be halved.
    """

    def __init__(
        self,
        spec: ImageSpec,
        base: GenerativeModel,
        prompt_dropout: Share = 0.5,
        planes: tuple[Count, ...] | None = None,
        formats: tuple[tuple[Count, Count, Count], ...] | None = None,
        rank: Natural = 0,
    ) -> None:
        super().__init__()
        if spec.hint is None:
            raise LimnerError(
                "a control needs conditioning pictures; give data.hint=edges, or paired:HINTS,DATA"
            )
        self.base = checked_base(spec, base).requires_grad_(False)
        channels, network = planes or (spec.hint.channels,), self.base_network
        if sum(channels) != spec.hint.channels:
            raise LimnerError(
                f"model.planes={','.join(map(str, channels))} are {sum(channels)} channels; give "
                f"numbers whose sum is {spec.hint.channels}, the channels of the hints"
            )
        if formats and len(formats) != len(channels):
            raise LimnerError(
                f"model.formats has {len(formats)} entries, and model.planes {len(channels)}; give "
                "levels, height and width for each control"
            )
        unit = spec.height * network.patch // self.denoiser.spec.height
        halvings = unit.bit_length() - 1
        if unit != 2**halvings or halvings > MAX_HALVINGS:
            raise LimnerError(
                f"the base works on patches of {unit} x {unit} pixels, and a hint can only be "
                f"halved, at most {MAX_HALVINGS} times; give a base with model.patch=2"
            )
        self.controls = nn.ModuleList(Control(network, k, halvings, rank) for k in channels)
        self.formats = formats
        self.prompt_dropout = prompt_dropout
        self.couples_batch = base.couples_batch

    @property
    def branches(self) -> list[Control]:
        """The controls, with their type."""
        return [control for control in self.controls if isinstance(control, Control)]

    @property
    def hints(self) -> Sequence[ImageSpec]:
        """Specification of each control's hints: `Controlled`."""
        hint = self.spec.hint
        assert hint is not None
        domains = hint.domain.split("+")
        if len(domains) != len(self.controls):
            domains = [""] * len(self.controls)
        formats = self.formats or [
            (2 if domain in BINARY else hint.levels, hint.height, hint.width) for domain in domains
        ]
        return [
            ImageSpec(control.channels, height, width, levels, domain=domain)
            for control, (levels, height, width), domain in zip(self.branches, formats, domains)
        ]

    def join(
        self, others: Sequence[Controlled], base: GenerativeModel | None = None
    ) -> "ControlNet":
        """Return one model with the controls of several: `Controlled`; weights are copied.

        Raises:
            LimnerError: another kind of model; or a model trained for pictures of another size, in
                another latent space, or with a network of another shape.
        """
        base = base or self.base
        base = checked_base(base.spec, base)
        _check_place(self, base)
        hints, controls = [*self.hints], self._whole_controls()
        for other in others:
            if not isinstance(other, ControlNet):
                raise LimnerError(f"{other.name} models have no control to join to {self.name}")
            _check_place(other, base)
            hints += other.hints
            controls += other._whole_controls()
        base = copy.deepcopy(base)
        planes = tuple(control.channels for control in controls)
        sizes = {(hint.height, hint.width) for hint in hints}
        height, width = sizes.pop() if len(sizes) == 1 else base.spec.shape[1:]
        domain = "+".join(hint.domain for hint in hints)
        levels = max(hint.levels for hint in hints)
        hint = ImageSpec(sum(planes), height, width, levels, domain=domain)
        formats = tuple((hint.levels, hint.height, hint.width) for hint in hints)
        model = ControlNet(replace(base.spec, hint=hint), base, planes=planes, formats=formats)
        for branch, trained in zip(model.branches, controls):
            branch.take(trained)
        return model.to(self.device).eval()

    def _whole_controls(self) -> list[Control]:
        return [control.whole(self.base_network) for control in self.branches]

    def formula(self) -> list[str]:
        """Return formulas of the controlled network and of its base."""
        size, frozen = (
            sum(p.numel() for p in part.parameters()) for part in (self.controls, self.base)
        )
        return [
            f"F(x_t, t, c, h) = decoder(encoder(x_t, t, c) + s Z(copy(x_t, t, c, h)))  of {size:,}",
            f"encoder and decoder of a frozen {self.base.name}: {frozen:,} parameters",
        ]

    def players(self) -> dict[str, nn.Module]:
        """Return the controls as the only player; the base is frozen."""
        return {"control": self.controls}

    def remarks(self, rows: Sequence[Mapping[str, float | None]]) -> list[str]:
        """Return a message when adherence to the hints rises suddenly (section 4.4)."""
        messages: list[str] = []
        for name in rows[-1] if rows else ():
            if not name.startswith("evaluate.") or not name.endswith((" F1", " IoU")):
                continue
            values = [value for row in rows if (value := row.get(name)) is not None]
            if rows[-1][name] is not None and values[-1] - min(values[-2:]) >= _SUDDEN_RISE:
                metric = name.removeprefix("evaluate.")
                messages.append(f"hints are followed now: {metric} rose from {values[-2]:.2f} to "
                             f"{values[-1]:.2f} since the last evaluation")  # fmt: skip
        return messages

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the turns of the controlled base; the prompt is sometimes hidden."""
        prompt = replace(batch.c, image=None, present=None).drop(self.prompt_dropout, noise)
        c = replace(prompt, image=batch.c.image, present=batch.c.present)
        base, c = self.controlled_base(c)
        yield from base.turns(Batch(batch.x, c), step, noise)

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        scale: Scale = 1.0,
        control_strength: Strength = 1.0,
        control_weights: tuple[Strength, ...] | None = None,
        control_interval: tuple[float, float] | None = None,
        **options: Unpack[WalkOptions],
    ) -> Iterator[Images]:
        """Yield the frames of the controlled base.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            scale: scale of classifier-free guidance by the prompt; the hint is in both halves.
            control_strength: how strongly the hint acts; 0 is the base.
            control_weights: for several controls, how strongly each acts; 1 by default.
            control_interval: part of the steps in which the hint acts, from 0 (noise) to 1
                (picture).
            options: see `WalkOptions`.
        """
        arguments = {"scale": scale, "control_strength": control_strength, **options}
        arguments |= {"control_weights": control_weights, "control_interval": control_interval}
        base, c = self.controlled_base(c, **arguments)
        yield from base.frames(n, c, noise=noise, preview=preview, **_of_base(arguments))

    def base_for(self, c: Condition, n: int) -> tuple[Base, Condition]:
        """Return the controlled base, and its condition."""
        return self.controlled_base(c)

    def base_condition(self, c: Condition, n: int) -> Condition:
        """Return the condition with encoded hints, see `with_hint`."""
        return self.with_hint(c)

    def base_plan(self, c: Condition, n: int, **options: Any) -> tuple[Plan, Condition]:
        """Return the plan of the controlled base, and the condition with encoded hints."""
        base, c = self.controlled_base(c, **options)
        return base.plan(**_of_base(options)), c

    def controlled_base(
        self,
        c: Condition,
        *,
        control_strength: float = 1.0,
        control_weights: tuple[float, ...] | None = None,
        control_interval: tuple[float, float] | None = None,
        **options: Any,
    ) -> tuple[Base, Condition]:
        """Return the base with the controls in its network, and its condition; weights are shared.

        Args:
            c: condition of the pictures.
            control_strength, control_weights, control_interval: see `frames`.
            options: options of the base's plan.

        Raises:
            LimnerError: invalid settings, or a hint of another shape.
        """
        weights = tuple(control_strength * w for w in self.weights_of_controls(control_weights))
        labels = self._labels(control_interval, options)
        if c.image is None or not any(weights):
            return self.base, replace(c, image=None, present=None)
        network = ControlledNetwork(
            self.base_network, self.branches, ControlSettings(weights, labels)
        )
        return with_network(self.base, network), self.with_hint(c)

    def _labels(
        self, interval: tuple[float, float] | None, options: Mapping[str, Any]
    ) -> tuple[float, float]:
        """Return the network's time inputs at the ends of an interval of the steps."""
        if interval is None:
            return ALL_LABELS
        start, end = interval
        if not 0 <= start < end <= 1:
            raise LimnerError(
                f"control_interval={start:g},{end:g}: give two shares of the steps, as in 0,0.5"
            )
        times = self.base.plan(**_of_base(options)).times
        labels = self.denoiser.schedule.label(times).tolist()
        steps = len(labels) - 1
        first = min(round(start * steps), steps - 1)
        after = max(round(end * steps), first + 1)
        high = (labels[first - 1] + labels[first]) / 2 if first else ALL_LABELS[1]
        low = (labels[after - 1] + labels[after]) / 2 if after < steps else ALL_LABELS[0]
        return low, high

    def with_hint(self, c: Condition) -> Condition:
        """Return the condition with the encoded hints as its image.

        The image's last channel says whether the hints are present, so that they stay in both
        halves of guidance.

        Raises:
            LimnerError: the hint has another shape than in training.
        """
        image, hint = c.image, self.spec.hint
        assert image is not None and hint is not None
        if tuple(image.shape[1:]) != hint.shape:
            expected, actual = (
                " x ".join(map(str, shape)) for shape in (hint.shape, image.shape[1:])
            )
            raise LimnerError(f"this control was trained with hints of {expected}, not of {actual}")
        size = self.spec.height, self.spec.width
        if tuple(image.shape[-2:]) != size:
            image = F.interpolate(image, size, mode="bilinear", antialias=True)
        parts = image.to(next(self.controls.parameters())).split(
            [control.channels for control in self.branches], dim=1
        )
        hints = [control.hint(part) for control, part in zip(self.branches, parts)]
        present = image.new_ones(len(image)) if c.present is None else c.present.to(image)
        plane = present.view(-1, 1, 1, 1).expand(-1, 1, *hints[0].shape[2:])
        return replace(c, image=torch.cat([*hints, plane.to(hints[0])], dim=1), present=None)

    def plan(self, **options: Any) -> Plan:
        """Return the base's plan without a hint; `edit_frames` has the hint."""
        return self.base.plan(**_of_base(options))

    def edit_frames(
        self, edit: Edit, n: int, c: Condition, *, noise: Noise, preview: bool, **options: Any
    ) -> Iterator[Images]:
        """Yield the edit of the controlled base."""
        base, c = self.controlled_base(c, **options)
        yield from base.edit_frames(edit, n, c, noise=noise, preview=preview, **_of_base(options))

    def check_words(self, before: Condition, after: Condition) -> None:
        """Check the prompts as the base does: `Rewords`."""
        self.base.check_words(before, after)

    def reword_frames(
        self,
        change: Rewording,
        image: Images | None,
        strength: float,
        n: int,
        c: Condition,
        *,
        noise: Noise,
        preview: bool,
        **options: Any,
    ) -> Iterator[Images]:
        """Yield the base's frames, with both pictures under the same control: `Rewords`."""
        base, c = self.controlled_base(c, **options)
        yield from base.reword_frames(
            change, image, strength, n, c, noise=noise, preview=preview, **_of_base(options)
        )

    def reconstruct_for_edit(self, image: Images, seed: Seeds = 0) -> Images:
        """Return the base's reconstruction: `Rewords`."""
        return self.base.reconstruct_for_edit(image, seed)


def _of_base(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if not name.startswith("control_")}


def _check_place(control: ControlNet, base: Base) -> None:
    """Check that a control works in the space where a base paints.

    Raises:
        LimnerError: it works at another size, or in another latent space.
    """
    own_base = control.base
    if control.spec.shape[1:] != base.spec.shape[1:]:
        raise LimnerError(
            f"this control works at {control.spec.width} x {control.spec.height}, and the base "
            f"paints {base.spec.width} x {base.spec.height} pictures; take a base of that size"
        )
    kinds = [isinstance(model, LatentDiffusion) for model in (own_base, base)]
    if kinds[0] != kinds[1]:
        names = ("on pixels", "in the latent space of an autoencoder")
        raise LimnerError(
            f"this control works {names[kinds[0]]}, and the base paints {names[kinds[1]]}; take "
            "a base of the kind that the control was trained with"
        )
    if not isinstance(own_base, LatentDiffusion) or not isinstance(base, LatentDiffusion):
        return
    if not own_base.shares_stage(base):
        raise LimnerError(
            "this control was trained in the latent space of another autoencoder; take a base with "
            "the control's own first stage, on the same data"
        )
