"""Cascaded diffusion: one model paints a small picture, and another one enlarges it.

Ho, Saharia, Chan, Fleet, Norouzi, Salimans (2021). Cascaded diffusion models for high fidelity
image generation. arXiv:2106.15282.

    z ~ p(z | c)        the base, trained before, at low resolution
    x ~ p(x | z_s, c)   the upsampler, at high resolution, z_s = z + s eps

The base's pictures differ a little from reduced pictures of the data, so the upsampler must not
rely on every pixel of them. In training, z is the reduced picture of the data, and s is uniform in
[0, augmentation] for each image (conditioning augmentation, section 4); the upsampler gets s in a
further channel. In sampling, s is a small constant.

Kept: independent training of the stages, the condition in both, Gaussian conditioning augmentation.
Different: noise is added to z at full contrast, where the paper uses the forward process; either
stage may be any model of this library; label and text are sometimes hidden from the upsampler, so
that it can paint without them. The upsampler is sampled without guidance, because its unconditional
model would not see z; prompt and negative prompt guide the base. Optional: `cleaning` of the
finished picture.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.abilities import Attends
from limner.contract.editing import Edits, Rewords
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel, Turn, finish_frames
from limner.contract.noise import Noise, Purpose, Seeds
from limner.contract.options import NonNegative, Share, option_names
from limner.contract.registry import Paper, build, entry, register
from limner.contract.rewording import Rewording
from limner.contract.upscaling import Upscales, resize
from limner.diffusion.cleaning import CleaningPasses, check_cleaning, clean_frames
from limner.diffusion.conditioning_augmentation import augment, augmentation_level
from limner.diffusion.denoising_model import DenoisingModel
from limner.diffusion.prompt_to_prompt import (
    PromptToPrompt,
    follow_change,
    reconstruct_for_edit,
)
from limner.diffusion.sampling import (
    Edit,
    Repaints,
    Scale,
    Steps,
    WalkOptions,
    base_has_ability,
    make_edit,
    schema_for_base,
    walk_options,
)
from limner.maths.samplers.sampler import SamplerName

_OWN_OPTIONS = ("upsampler_sampler", "upsampler_steps", "level", "clean")  # others: the base's


@register(
    "cascade",
    family="diffusion",
    paper=Paper(
        "Cascaded diffusion models for high fidelity image generation",
        "Ho, Saharia, Chan, Fleet, Norouzi, Salimans",
        2021,
        "2106.15282",
    ),
    tiny={
        "base": {"model": "flow-matching", "spec": {"height": 4, "width": 4}},
        "options": {"channels": (8, 16)},
    },
    train={"lr": 5e-4, "betas": (0.9, 0.99), "weight_decay": 0.01, "clip": 1.0},
)
class Cascade(Edits, Attends, Rewords):
    """Cascade: a frozen model paints small pictures, and an upsampler enlarges them.

    Args:
        spec: specification of the images.
        base: a trained model of the same data at low resolution; as in train.init.base="runs/NAME".
        upsampler: registered name of the model that enlarges; it must take a conditioning image.
        options: the upsampler's own options; its defaults where left out.
        augmentation: largest standard deviation of the noise on the small pictures in training.
        condition_dropout: probability that training hides label and text, not the small picture.
    """

    takes = ("labels", "text")

    def __init__(
        self,
        spec: ImageSpec,
        base: GenerativeModel,
        upsampler: str = "flow-matching",
        options: dict[str, Any] | None = None,
        augmentation: NonNegative = 0.4,
        condition_dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        _check_fit(base.spec, spec)
        settings = dict(options or {})
        if "condition_dropout" in option_names(entry(upsampler).model.__init__):
            settings.setdefault("condition_dropout", 0.0)  # it would also hide the small picture
        if "hint" not in entry(upsampler).model.takes:
            raise LimnerError(f"model '{upsampler}' takes no conditioning image to enlarge")
        if issubclass(entry(upsampler).model, Upscales):
            raise LimnerError(
                f"{upsampler} models take only a small picture, and a cascade also gives its "
                "upsampler the noise level; give model.upsampler=flow-matching"
            )
        if entry(upsampler).nested_options:
            raise LimnerError(
                f"{upsampler} models need another trained model, and a cascade has only its base; "
                "give model.upsampler=flow-matching"
            )
        hint = ImageSpec(spec.channels + 1, base.spec.height, base.spec.width)
        model = build(upsampler, replace(spec, hint=hint), **settings)
        if not isinstance(model, GenerativeModel):
            raise LimnerError(f"model '{upsampler}' generates no pictures; give a generator")
        self.base, self.upsampler = base, model
        self.augmentation = augmentation
        self.condition_dropout = condition_dropout
        self.condition = base.condition
        self.couples_batch = model.couples_batch
        self.batches_per_round = model.batches_per_round

    def formula(self) -> list[str]:
        """Return formulas of the two stages."""
        small = " x ".join(map(str, self.base.spec.shape))
        return [
            f"y ~ {self.base.name}(c), of {small}",
            f"x ~ {self.upsampler.name}(c, y + s eps),  s <= {self.augmentation:g} in training",
        ]

    def players(self) -> dict[str, nn.Module]:
        """Return the players of the upsampler; the base is frozen."""
        return self.upsampler.players()

    def prepare(self, batches: Iterator[Batch]) -> None:
        """Prepare the upsampler on its own inputs."""
        self.upsampler.prepare(self._upsampler_batches(batches))

    def calibrate(self, batches: Iterator[Batch]) -> None:
        """Calibrate the upsampler on its own inputs."""
        self.upsampler.calibrate(self._upsampler_batches(batches))

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the upsampler's turns, given the noisy reduced picture."""
        yield from self.upsampler.turns(self._upsampler_batch(batch, noise), step, noise)

    def _upsampler_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for i, batch in enumerate(batches):
            n, device = len(batch.x), str(batch.x.device)
            numbers = range(i * n, (i + 1) * n)
            streams = Noise.keyed(0, Purpose.PREPARATION, numbers, device)
            yield self._upsampler_batch(batch, streams)

    def _upsampler_batch(self, batch: Batch, noise: Noise) -> Batch:
        """Return the upsampler's training batch."""
        z = resize(batch.x, self.base.spec.height, self.base.spec.width)
        level = self.augmentation * noise.uniform()
        return Batch(batch.x, self.with_hint(batch.c, z, level, noise))

    def with_hint(
        self, c: Condition, z: Images, level: Float[Tensor, "b"], noise: Noise
    ) -> Condition:
        """Return the upsampler's condition: label, text, and the noisy small picture.

        Args:
            c: condition of the pictures.
            z: pictures at low resolution.
            level: standard deviation s of each picture's noise, in [0, augmentation].
            noise: random streams of the noise.

        Returns:
            a condition with the result of `augment` as its image.
        """
        image = augment(z, level, self.augmentation, noise)
        return Condition(label=c.label, text=c.text, image=image, weight=c.weight)

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        scale: Scale | None = None,
        clip: bool = True,
        upsampler_sampler: SamplerName | None = None,
        upsampler_steps: Steps | None = None,
        level: NonNegative | None = None,
        clean: CleaningPasses | None = None,
        **options: Unpack[WalkOptions],
    ) -> Iterator[Images]:
        """Yield the base's frames enlarged, then the upsampler's.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            scale: guidance scale of the base; its own default if not given.
            clip: clamp the base's x_hat to [-1, 1] at each step.
            upsampler_sampler: sampler of the upsampler; its own by default.
            upsampler_steps: number of the upsampler's steps; its own by default.
            level: standard deviation of the noise on the base's picture; a quarter of the largest
                in training by default. More noise hides more of the base's mistakes, and more of
                its picture.
            clean: how often the upsampler cleans the finished picture of its own grain, see
                `cleaning`; 0 by default.
            options: options of the base, where it has them, see `WalkOptions`.
        """
        s = self._level(level)
        base_options = self._base_options(scale=scale, clip=clip, **options)
        upsampler_options = self._upsampler_options(
            upsampler_sampler=upsampler_sampler, upsampler_steps=upsampler_steps, clean=clean
        )
        small = self.base.frames(n, c, noise=noise, preview=preview, **base_options)
        z = yield from self._enlarge_frames(small, preview)
        condition = self.with_hint(c, z, torch.full((n,), s, device=z.device), noise)
        frames = self.upsampler.frames(
            n, condition, noise=noise, preview=preview, **upsampler_options
        )
        yield from clean_frames(frames, self.upsampler, condition, clean, preview)

    def _level(self, level: float | None) -> float:
        """Return the standard deviation of the noise on the base's picture."""
        return augmentation_level(level, self.augmentation / 4, self.augmentation)

    def _enlarge_frames(
        self, small: Iterator[Images], preview: bool
    ) -> Generator[Images, None, Images]:
        """Yield the base's frames enlarged without interpolation, and return the last small one."""
        z = torch.empty(0)
        for z in small:
            if preview:
                yield F.interpolate(z, (self.spec.height, self.spec.width), mode="nearest")
        return z

    def edit(
        self,
        image: Images,
        c: Condition = Condition(),
        *,
        mask: Float[Tensor, "b 1 h w"] | None = None,
        strength: float = 1.0,
        rounds: int | None = None,
        seed: Seeds = 0,
        preview: bool = True,
        **options: Any,
    ) -> Iterator[Images]:
        """Edit the reduced picture with the base, and enlarge the result: `Edits`.

        Args:
            image, c, mask, strength, rounds, seed, preview, options: as for `Repaints.edit`;
                where the mask is 0, no pixel of the picture changes.

        Raises:
            LimnerError: a stage cannot edit; or as for `Repaints.edit`.
        """
        frames = partial(self._edit_frames, make_edit(self, image, mask, strength, rounds))
        yield from self.run_frames(frames, len(image), c, seed, preview, options)

    @finish_frames
    def _edit_frames(
        self,
        edit: Edit,
        n: int,
        c: Condition,
        *,
        noise: Noise,
        preview: bool,
        level: float | None,
        clean: int | None,
        **options: Any,
    ) -> Iterator[Images]:
        """Yield the frames of `edit`."""
        image, mask = edit.image, edit.mask
        base, upsampler = self._editing(self.base), self._editing(self.upsampler)
        s = self._level(level)
        base_options, upsampler_options = (
            self._base_options(**options),
            self._upsampler_options(clean=clean, **options),
        )
        size = base.spec.height, base.spec.width
        small_mask = None if mask is None else F.adaptive_max_pool2d(mask.to(image), size)
        small_edit = edit._replace(image=resize(image, *size), mask=small_mask)
        small = base.edit_frames(small_edit, n, c, noise=noise, preview=preview, **base_options)
        z = yield from self._enlarge_frames(small, preview)
        condition = self.with_hint(c, z, torch.full((n,), s, device=z.device), noise)
        large_edit = Edit(image, mask)
        frames = upsampler.edit_frames(
            large_edit, n, condition, noise=noise, preview=preview, **upsampler_options
        )
        for x in clean_frames(frames, self.upsampler, condition, clean, preview, large_edit):
            yield x if mask is None else torch.where(mask.to(x) > 0, x, image)

    def check_words(self, before: Condition, after: Condition) -> None:
        """Refuse prompts without words, and a base without cross-attention to words."""
        if not isinstance(self.base, PromptToPrompt):
            raise LimnerError(f"{self.base.name} models within a cascade cannot change words")
        self.base.check_words(before, after)

    @finish_frames
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
        level: float | None,
        clean: int | None,
        **options: Any,
    ) -> Iterator[Images]:
        """Change the words for the base, and enlarge both pictures: `Rewords`.

        A given picture is followed in both stages, and not cleaned.
        """
        assert isinstance(self.base, PromptToPrompt)
        size = self.base.spec.height, self.base.spec.width
        s, base_options = self._level(level), self._base_options(**options)
        upsampler_options = self._upsampler_options(clean=clean, **options)
        small_image = None if image is None else resize(image, *size)
        small = self.base.reword_frames(
            change, small_image, strength, n, c, noise=noise, preview=preview, **base_options
        )
        z = yield from self._enlarge_frames(small, preview)
        condition = self.with_hint(c, z, torch.full((n,), s, device=z.device), noise)
        if image is None:
            frames = self.upsampler.frames(
                n, condition, noise=noise, preview=preview, **upsampler_options
            )
            yield from clean_frames(frames, self.upsampler, condition, clean, preview)
        else:
            upsampler = self._editing(self.upsampler)
            plan = upsampler.plan(**upsampler_options)
            yield from follow_change(upsampler, plan, image, condition, noise, preview)

    def reword_count(self, is_given: bool = False, **options: Any) -> int:
        """Return the number of frames of both stages, without those of `cleaning` for given
        pictures."""
        clean = 0 if is_given else options.get("clean")
        return self.frame_count(**(options | {"clean": clean}))

    def reconstruct_for_edit(self, image: Images, seed: Seeds = 0) -> Images:
        """Return the upsampler's reconstruction, which follows the picture itself: `Rewords`."""
        return reconstruct_for_edit(self._editing(self.upsampler), image, seed)

    def edit_count(self, strength: float = 1.0, **options: Any) -> int:
        """Return the number of frames of both stages."""
        base = self._editing(self.base).edit_count(strength, **self._base_options(**options))
        return base + self._upsampler_count(**options)

    def effective_strength(self, strength: float, **options: Any) -> float:
        """Return the effective strength of the base."""
        base_options = self._base_options(**options)
        return self._editing(self.base).effective_strength(strength, **base_options)

    def attention_maps(self, x: Images, c: Condition) -> Float[Tensor, "b l h w"]:
        """Return the attention maps of the base, which decides the layout: `Attends`."""
        if not isinstance(self.base, Attends):
            raise LimnerError(f"{self.base.name} models within a cascade have no attention maps")
        small = resize(x, self.base.spec.height, self.base.spec.width)
        return F.interpolate(self.base.attention_maps(small, c), x.shape[-2:], mode="bilinear")

    @staticmethod
    def _editing(stage: GenerativeModel) -> Repaints:
        if not isinstance(stage, Repaints):
            raise LimnerError(f"{stage.name} models within a cascade cannot edit pictures")
        return stage

    @classmethod
    def has_ability(cls, ability: type, config: Mapping[str, Any]) -> bool:
        """Return whether the base has an ability, and to edit, the upsampler, too."""
        needed = {Edits: Repaints, Rewords: PromptToPrompt}.get(ability, ability)
        is_able = ability is not Edits or issubclass(entry(config["upsampler"]).model, needed)
        return is_able and base_has_ability(ability, config, needed)

    @classmethod
    def sample_schema(cls, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the schema of the options, only those that base and upsampler take."""
        schema = schema_for_base(super().sample_schema(), _OWN_OPTIONS, config)
        if config is None or issubclass(entry(config["upsampler"]).model, DenoisingModel):
            return schema
        kept = {name: field for name, field in schema["properties"].items() if name != "clean"}
        return schema | {"properties": kept}

    def frame_count(self, **options: Any) -> int:
        """Return the number of frames of both stages."""
        base = self.base.frame_count(**self._base_options(**options))
        return base + self._upsampler_count(**options)

    def _upsampler_count(self, *, clean: int | None = None, **options: Any) -> int:
        """Return the number of the upsampler's frames, with those of `cleaning`."""
        upsampler_options = self._upsampler_options(clean=clean, **options)
        return self.upsampler.frame_count(**upsampler_options) + (clean or 0)

    def stage_options(
        self, *, level: float | None = None, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], float]:
        """Return the options of base and upsampler, and the noise's deviation between them.

        Args:
            level, options: see `frames`.
        """
        return self._base_options(**options), self._upsampler_options(**options), self._level(level)

    def _base_options(self, **options: Any) -> dict[str, Any]:
        """Return the base's sampling options, checked, with their defaults."""
        names = ("scale", *walk_options())
        values = {name: options[name] for name in names if options.get(name) is not None}
        if not options.get("clip", True):
            values["clip"] = False
        return self.base.sampler_options(values)

    def _upsampler_options(self, *, clean: int | None = None, **options: Any) -> dict[str, Any]:
        """Return the upsampler's sampling options, checked, without guidance; `clean` is only
        checked.
        """
        check_cleaning(self.upsampler, clean)
        names = ("sampler", "steps")
        values = {k: v for k in names if (v := options.get(f"upsampler_{k}")) is not None}
        checked = self.upsampler.sampler_options(values)
        return checked | {"scale": 1.0} if "scale" in checked else checked


def _check_fit(low: ImageSpec, high: ImageSpec) -> None:
    """Check that a base of one specification can be enlarged to another."""
    if low.hint:
        raise LimnerError("a cascade paints without conditioning images; leave the pairs out")
    for name in ("channels", "labels", "text"):
        if getattr(low, name) != getattr(high, name):
            raise LimnerError(
                f"the base was trained on data with other {name}; train both stages on the same"
            )
    factor = high.height // low.height
    if factor < 2 or (high.height, high.width) != (factor * low.height, factor * low.width):
        raise LimnerError(
            f"a cascade enlarges by a whole number of at least 2, but not from the base's "
            f"{low.height} x {low.width} to {high.height} x {high.width}; "
            f"try data.size={2 * max(low.height, low.width)}"
        )
