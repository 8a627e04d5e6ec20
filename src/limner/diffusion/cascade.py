"""Cascaded diffusion: a small picture from one model, enlarged by another that sees it.

Ho, Saharia, Chan, Fleet, Norouzi, Salimans (2021). Cascaded diffusion models for high fidelity
image generation. arXiv:2106.15282.

    z ~ p(z | c)        the base, trained before, at low resolution
    x ~ p(x | z_s, c)   the upsampler, at high resolution, z_s = z + s eps

A picture of the base is not quite a reduced one of the data, so the upsampler must not trust it to
the last pixel. In training, z is the data's picture reduced, and s is uniform in [0, augmentation]
for each image (conditioning augmentation, section 4); the upsampler is told s in a plane of its
own. In sampling, s is a small constant.

Kept: independent training of the stages, the condition in both, Gaussian conditioning augmentation.
Different: noise is added to z at full contrast, where the paper walks the forward process; either
stage may be any model of this library; label and text are hidden from the upsampler now and then,
so that it can paint without. It is sampled without guidance, whose null model would not see z: what
is asked for, and what is to be avoided, guides the base.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Unpack, get_type_hints

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.abilities import Attends
from limner.contract.editing import Edits, Rewords
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel, Turn, finished
from limner.contract.noise import Noise, Purpose, Seeds
from limner.contract.options import NonNegative, Share, option_names
from limner.contract.registry import Paper, build, entry, register
from limner.contract.rewording import Rewording
from limner.contract.upscaling import Upscales, resize
from limner.diffusion.prompt_to_prompt import (
    PromptToPrompt,
    follow_change,
    reconstruct_for_edit,
)
from limner.diffusion.sampling import (
    Repaints,
    Scale,
    Steps,
    WalkOptions,
    check_edit,
    taken_by_base,
)
from limner.maths.samplers import SamplerName


def augmented(
    z: Float[Tensor, "b c h w"], level: Float[Tensor, "b"], largest: float, noise: Noise
) -> Float[Tensor, "b c+1 h w"]:
    """Small pictures under noise, z + s eps, which may leave [-1, 1], and as their last channel s
    itself, from -1 (none) to 1 (the largest): conditioning augmentation, section 4.

    Args:
        z: the small pictures.
        level: the deviation s of each one's noise, in [0, largest].
        largest: the largest in training.
        noise: where the noise is drawn.
    """
    s = level.to(z).view(-1, 1, 1, 1)
    noisy = z + s * noise.normal(*z.shape[1:]).to(z)
    told = 2 * s / (largest or 1.0) - 1
    return torch.cat([noisy, told.expand_as(z[:, :1])], dim=1)


def augmentation_level(asked: float | None, usual: float, largest: float) -> float:
    """The deviation of the noise on the small pictures in sampling.

    Raises:
        LimnerError: it is beyond the largest in training.
    """
    level = usual if asked is None else asked
    if level > largest:
        raise LimnerError(
            f"sampler option level={level:g} is beyond this model's training; give at most "
            f"{largest:g}"
        )
    return level


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
    """Cascade: a frozen model paints small, and an upsampler that sees it paints large.

    Args:
        spec: specification of the images.
        base: a trained model of the same data at low resolution; as in train.init.base="runs/NAME".
        upsampler: the registered name of the model that enlarges; one that takes a conditioning
            image.
        options: the upsampler's own; its defaults where left out.
        augmentation: the largest deviation of the noise on the low resolution in training.
        condition_dropout: how often training hides label and text from the upsampler; the low
            resolution, never.
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
        own = dict(options or {})
        if "condition_dropout" in option_names(entry(upsampler).model.__init__):
            own.setdefault("condition_dropout", 0.0)  # it would hide the low resolution, too
        if "hint" not in entry(upsampler).model.takes:
            raise LimnerError(f"model '{upsampler}' takes no conditioning image to enlarge")
        if issubclass(entry(upsampler).model, Upscales):
            raise LimnerError(
                f"{upsampler} models see a small picture alone, and a cascade tells its upsampler "
                "the noise on it; give model.upsampler=flow-matching"
            )
        hint = ImageSpec(spec.channels + 1, base.spec.height, base.spec.width)
        enlarging = build(upsampler, replace(spec, hint=hint), **own)
        if not isinstance(enlarging, GenerativeModel):
            raise LimnerError(f"model '{upsampler}' paints nothing; give a generator")
        self.base, self.upsampler = base, enlarging
        self.augmentation = augmentation
        self.condition_dropout = condition_dropout
        self.condition = base.condition
        self.couples_batch = enlarging.couples_batch
        self.batches_per_round = enlarging.batches_per_round

    def formula(self) -> list[str]:
        """The two stages."""
        small = " x ".join(map(str, self.base.spec.shape))
        return [
            f"y ~ {self.base.name}(c), of {small}",
            f"x ~ {self.upsampler.name}(c, y + s eps),  s <= {self.augmentation:g} in training",
        ]

    def players(self) -> dict[str, nn.Module]:
        """The players of the upsampler; the base is frozen."""
        return self.upsampler.players()

    def prepare(self, batches: Iterator[Batch]) -> None:
        """The upsampler's, on what it will see."""
        self.upsampler.prepare(self._hinted(batches))

    def calibrate(self, batches: Iterator[Batch]) -> None:
        """The upsampler's, on what it saw."""
        self.upsampler.calibrate(self._hinted(batches))

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """The upsampler's moves, given the reduced picture under noise."""
        yield from self.upsampler.turns(self._told(batch, noise), step, noise)

    def _hinted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for i, batch in enumerate(batches):
            n, device = len(batch.x), str(batch.x.device)
            numbers = range(i * n, (i + 1) * n)
            yield self._told(batch, Noise.keyed(0, Purpose.PREPARATION, numbers, device))

    def _told(self, batch: Batch, noise: Noise) -> Batch:
        """A batch as the upsampler is trained on it."""
        z = resize(batch.x, self.base.spec.height, self.base.spec.width)
        level = self.augmentation * noise.uniform()
        return Batch(batch.x, self.hinted(batch.c, z, level, noise))

    def hinted(self, c: Condition, z: Images, level: Float[Tensor, "b"], noise: Noise) -> Condition:
        """The upsampler's condition: label and text, and the low resolution under noise.

        Args:
            c: what the pictures are of.
            z: the pictures at low resolution.
            level: the deviation s of each one's noise, in [0, augmentation].
            noise: where the noise is drawn.

        Returns:
            a condition whose image is `augmented`.
        """
        image = augmented(z, level, self.augmentation, noise)
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
        **options: Unpack[WalkOptions],
    ) -> Iterator[Images]:
        """Yield the base's frames enlarged, then the upsampler's.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            scale: the base's guidance; its own by default.
            clip: clamp the base's x_hat to [-1, 1] at each step.
            upsampler_sampler: how the upsampler walks; its own by default.
            upsampler_steps: how many steps the upsampler takes; its own by default.
            level: the deviation of the noise on the base's picture; a quarter of the largest in
                training by default. More hides more of the base's mistakes, and of its picture.
            options: of the base, where it has them, see `WalkOptions`.
        """
        s = self._level(level)
        given = self._base_options(scale=scale, clip=clip, **options)
        further = self._upsampler_options(
            upsampler_sampler=upsampler_sampler, upsampler_steps=upsampler_steps
        )
        small = self.base.frames(n, c, noise=noise, preview=preview, **given)
        z = yield from self._enlarged(small, preview)
        seen = self.hinted(c, z, torch.full((n,), s, device=z.device), noise)
        yield from self.upsampler.frames(n, seen, noise=noise, preview=preview, **further)

    def _level(self, asked: float | None) -> float:
        """The deviation of the noise on the base's picture."""
        return augmentation_level(asked, self.augmentation / 4, self.augmentation)

    def _enlarged(self, small: Iterator[Images], preview: bool) -> Generator[Images, None, Images]:
        """Yield the base's frames, each pixel as a block of them, and return the last one."""
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
        """Let the base edit the reduced picture, and enlarge what it made: `Edits`.

        Args:
            image, c, mask, strength, rounds, seed, preview, options: as for `Repaints.edit`;
                where the mask is 0 the picture stays as it is, to the pixel.

        Raises:
            LimnerError: a stage cannot edit; or as of `Repaints.edit`.
        """
        rounds = check_edit(self.spec, image, mask, strength, rounds)
        image = image.to(self.device, torch.float32)
        edited = partial(self._edited, image, mask, strength, rounds)
        yield from self.run_frames(edited, len(image), c, seed, preview, options)

    @finished
    def _edited(
        self,
        image: Images,
        mask: Float[Tensor, "b 1 h w"] | None,
        strength: float,
        rounds: int,
        n: int,
        c: Condition,
        *,
        noise: Noise,
        preview: bool,
        level: float | None,
        **options: Any,
    ) -> Iterator[Images]:
        """What `edit` yields, of checked arguments."""
        base, upsampler = self._editing(self.base), self._editing(self.upsampler)
        s = self._level(level)
        given, further = self._base_options(**options), self._upsampler_options(**options)
        size = base.spec.height, base.spec.width
        touched = None if mask is None else F.adaptive_max_pool2d(mask.to(image), size)
        small = base.edited(
            resize(image, *size), touched, strength, rounds, n, c,
            noise=noise, preview=preview, **given,
        )  # fmt: skip
        z = yield from self._enlarged(small, preview)
        seen = self.hinted(c, z, torch.full((n,), s, device=z.device), noise)
        yield from upsampler.edited(
            image, mask, 1.0, 1, n, seen, noise=noise, preview=preview, **further
        )

    def check_words(self, before: Condition, after: Condition) -> None:
        """Refuse prompts without words, and a base that looks at none."""
        if not isinstance(self.base, PromptToPrompt):
            raise LimnerError(f"{self.base.name} models within a cascade look at no words")
        self.base.check_words(before, after)

    @finished
    def reworded(
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
        **options: Any,
    ) -> Iterator[Images]:
        """The base changes what its words change, and both pictures are enlarged; a given one is
        followed in both stages: `Rewords`."""
        assert isinstance(self.base, PromptToPrompt)
        size = self.base.spec.height, self.base.spec.width
        s, given = self._level(level), self._base_options(**options)
        given_small = None if image is None else resize(image, *size)
        small = self.base.reworded(
            change, given_small, strength, n, c, noise=noise, preview=preview, **given
        )
        z = yield from self._enlarged(small, preview)
        seen = self.hinted(c, z, torch.full((n,), s, device=z.device), noise)
        further = self._upsampler_options(**options)
        if image is None:
            yield from self.upsampler.frames(n, seen, noise=noise, preview=preview, **further)
        else:
            upsampler = self._editing(self.upsampler)
            plan = upsampler.plan(**further)
            yield from follow_change(upsampler, plan, image, seen, noise, preview)

    def reconstruct_for_edit(self, image: Images, seed: Seeds = 0) -> Images:
        """That of the upsampler, which follows the picture itself: `Rewords`."""
        return reconstruct_for_edit(self._editing(self.upsampler), image, seed)

    def edit_count(self, strength: float = 1.0, **options: Any) -> int:
        """The number of frames of both stages."""
        base = self._editing(self.base).edit_count(strength, **self._base_options(**options))
        return base + self.upsampler.frame_count(**self._upsampler_options(**options))

    def effective_strength(self, strength: float, **options: Any) -> float:
        """That of the base."""
        own = self._base_options(**options)
        return self._editing(self.base).effective_strength(strength, **own)

    def attention_maps(self, x: Images, c: Condition) -> Float[Tensor, "b l h w"]:
        """The base's, for it decides what is where: `Attends`."""
        if not isinstance(self.base, Attends):
            raise LimnerError(f"{self.base.name} models within a cascade look at no words")
        small = resize(x, self.base.spec.height, self.base.spec.width)
        return F.interpolate(self.base.attention_maps(small, c), x.shape[-2:], mode="bilinear")

    @staticmethod
    def _editing(stage: GenerativeModel) -> Repaints:
        if not isinstance(stage, Repaints):
            raise LimnerError(f"{stage.name} models within a cascade cannot edit pictures")
        return stage

    @classmethod
    def sample_schema(cls, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Of the base's options those that it takes."""
        return taken_by_base(super().sample_schema(), config)

    def frame_count(self, **options: Any) -> int:
        """The number of frames of both stages."""
        base = self.base.frame_count(**self._base_options(**options))
        return base + self.upsampler.frame_count(**self._upsampler_options(**options))

    def stage_options(
        self, *, level: float | None = None, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], float]:
        """What the base and the upsampler are asked for, and the deviation of the noise between.

        Args:
            level, options: see `frames`.
        """
        return self._base_options(**options), self._upsampler_options(**options), self._level(level)

    def _base_options(self, **asked: Any) -> dict[str, Any]:
        """The base's sampling options, checked; what was not given is at its default."""
        names = ("scale", *get_type_hints(WalkOptions))
        given = {name: asked[name] for name in names if asked.get(name) is not None}
        if not asked.get("clip", True):
            given["clip"] = False
        return self.base.sampler_options(given)

    def _upsampler_options(self, **asked: Any) -> dict[str, Any]:
        """The upsampler's sampling options, checked, without guidance."""
        names = ("sampler", "steps")
        given = {k: v for k in names if (v := asked.get(f"upsampler_{k}")) is not None}
        known = self.upsampler.sampler_options(given)
        return known | {"scale": 1.0} if "scale" in known else known


def _check_fit(low: ImageSpec, high: ImageSpec) -> None:
    """Whether a base of one specification can be enlarged to another."""
    if low.hint:
        raise LimnerError("a cascade paints without conditioning images; leave the pairs out")
    for part in ("channels", "labels", "text"):
        if getattr(low, part) != getattr(high, part):
            raise LimnerError(
                f"the base was trained on data with other {part}; train both stages on the same"
            )
    factor = high.height // low.height
    if factor < 2 or (high.height, high.width) != (factor * low.height, factor * low.width):
        raise LimnerError(
            f"a cascade enlarges a whole number of times, at least twice, and the base's "
            f"{low.height} x {low.width} do not become {high.height} x {high.width} so; "
            f"try data.size={2 * max(low.height, low.width)}"
        )
