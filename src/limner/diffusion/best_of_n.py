"""Best of n: paint several pictures for a prompt; a captioner keeps the one that shows it best.

Ramesh et al. (2021). Zero-shot text-to-image generation. arXiv:2102.12092.
Lin, Chen, Pathak, Zhang, Ramanan (2024). Revisiting the role of language priors in vision-language
models. arXiv:2306.01879.
Ma et al. (2025). Inference-time scaling for diffusion models beyond scaling denoising steps.
arXiv:2501.09732.
Meng et al. (2021). SDEdit: guided image synthesis and editing with stochastic differential
equations. arXiv:2108.01073.

    x_1, ..., x_k ~ p(x | c)            the base, trained before, is frozen
    x = argmax over x_i of log p(c | x_i)            from a captioner, which is trained here
    x' ~ q(x' | x, c);  x' replaces x where log p(c | x') > log p(c | x)         r times

In the first paper (section 2.6), a network that compares vectors of a text and a picture chooses
among 512 pictures; such networks make little use of the order of words. The score of the second
paper is the likelihood of the text, given the picture, which depends on the order. The third paper
searches on ("zero-order search"): it paints from several noises near the first noise of the best
picture so far, and repeats this from the best of them. Here q adds noise to the best picture itself
and takes the last steps of sampling again (SDEdit), so that what is right mostly stays and what is
wrong may change.

Kept: the choice, the score, a search near the best. Different: the captioner is small and learns
from the base's own kind of data; generated pictures are softer than real ones, so real ones get a
little noise in training; the search is near the picture, not near its first noise, with one repaint
at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Annotated, Any, NamedTuple, TypeVar, Unpack

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.contract.abilities import Attends
from limner.contract.editing import Edits, Rewords
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel, Turn, finish_frames
from limner.contract.noise import Noise, Seeds
from limner.contract.options import Count, Counts, NonNegative, Widths
from limner.contract.registry import Paper, entry, register
from limner.contract.rewording import Rewording
from limner.diffusion.cleaning import CleaningPasses
from limner.diffusion.sampling import (
    Edit,
    Repaints,
    Scale,
    Steps,
    WalkOptions,
    base_has_ability,
    make_edit,
    schema_for_base,
)
from limner.maths.samplers.sampler import SamplerName
from limner.nn.captioner import Captioner

_SEARCHED_BATCHES = 64  # number of batches that are searched for the words in captions
_CANDIDATE_STRIDE = 1 << 32  # distance between two candidates' random numbers, in draws

_OWN_OPTIONS = ("candidates", "repaints", "repaint_strength")  # the others are the base's

_A = TypeVar("_A")


class Search(NamedTuple):
    """How much is painted for each picture that is kept, see `BestOfN.frames`.

    Args:
        candidates: number of pictures.
        repaints: number of repaints of the best picture.
        strength: how far a repaint goes back into noise, in (0, 1].
        mask: 1 where a repaint may paint, 0 where it keeps; None for everywhere.
        rounds: how often a repaint takes each step.
    """

    candidates: int
    repaints: int
    strength: float
    mask: Float[Tensor, "b 1 h w"] | None = None
    rounds: int = 1


@register(
    "best-of-n",
    family="diffusion",
    paper=Paper("Zero-shot text-to-image generation", "Ramesh et al.", 2021, "2102.12092"),
    tiny={
        "base": {"model": "flow-matching", "spec": {"labels": (), "frequencies": ()}},
        "channels": (8, 16),
        "blocks": (0, 1),
        "words": 16,
        "layers": 1,
    },
    train={"lr": 2e-3, "betas": (0.9, 0.98), "weight_decay": 0.02, "batch": 128, "clip": 1.0},
)
class BestOfN(Edits, Rewords, Attends):
    """Best of n: a captioner chooses among several pictures of a trained model.

    Args:
        spec: specification of the images; they have captions.
        base: a trained model of the same data; as in train.init.base="runs/NAME".
        channels: channels of the captioner's network at a quarter, an eighth, ... of the sides.
        blocks: number of residual blocks at each of these sizes.
        words: length of a word's vector.
        layers: number of layers of the decoder.
        grain: largest standard deviation of the noise on pictures in [-1, 1] in training.

    Raises:
        LimnerError: the data have no captions, or the base was trained on other data.
    """

    takes = ("text",)

    def __init__(
        self,
        spec: ImageSpec,
        base: GenerativeModel,
        channels: Widths = (32, 64, 96),
        blocks: Counts = (0, 1, 2),
        words: Count = 96,
        layers: Count = 2,
        grain: NonNegative = 0.2,
    ) -> None:
        super().__init__()
        if spec.text is None:
            raise LimnerError("a captioner learns captions, and the data have none; give others")
        if isinstance(base, BestOfN):
            raise LimnerError(
                "the base is a best-of-n model already; give its own base, or more candidates"
            )
        if base.spec.text is None:
            raise LimnerError(f"this {base.name} model reads no captions; give another base")
        for part, kind in (("labels", "classes"), ("hint", "conditioning images")):
            if getattr(base.spec, part):
                raise LimnerError(
                    f"this {base.name} model takes {kind}, too; give a base with captions only"
                )
        if base.spec.text.length != spec.text.length:
            raise LimnerError(
                f"the base reads {base.spec.text.length} tokens of a caption; give "
                f"data.tokens={base.spec.text.length}"
            )
        for part, kind in (("shape", "another shape"), ("text", "other text")):
            if getattr(base.spec, part) != getattr(spec, part):
                raise LimnerError(
                    f"the base was trained on data with {kind}; give the same [data] as for it"
                )
        if len(blocks) != len(channels):
            raise LimnerError(
                f"model.blocks has {len(blocks)} numbers and model.channels {len(channels)}; "
                "give both the same number"
            )
        self.base, self.grain = base, grain
        self.captioner = Captioner(spec, spec.text, channels, blocks, words, layers)

    def formula(self) -> list[str]:
        """Return formulas of the base, the choice and the loss."""
        size = sum(p.numel() for p in self.captioner.parameters())
        return [
            f"x_1, ..., x_k ~ p(x | c) of a frozen {self.base.name}",
            f"x = argmax over x_i of log p(c | x_i),  a captioner of {size:,} parameters",
            "loss: -log p(c | x + s eps)",
        ]

    def players(self) -> dict[str, nn.Module]:
        """Return the captioner as the only player; the base is frozen."""
        return {"captioner": self.captioner}

    def prepare(self, batches: Iterator[Batch]) -> None:
        """Collect the words of captions."""
        for batch in islice(batches, _SEARCHED_BATCHES):
            assert batch.c.text is not None
            self.captioner.learn_tokens(batch.c.text)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn: the negative log-likelihood of the captions, in nats."""
        assert batch.c.text is not None
        s = self.grain * noise.uniform()[:, None, None, None]
        x = batch.x + s * noise.normal(*batch.x.shape[1:])
        yield Turn(-self.captioner(x, batch.c.text).mean(), "captioner")

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        candidates: Annotated[int, Field(ge=1, le=64)] = 4,
        repaints: Annotated[int, Field(ge=0, le=64)] = 0,
        repaint_strength: Annotated[float, Field(gt=0, le=1)] = 0.3,
        scale: Scale | None = None,
        upsampler_sampler: SamplerName | None = None,
        upsampler_steps: Steps | None = None,
        level: NonNegative | None = None,
        clean: CleaningPasses | None = None,
        **options: Unpack[WalkOptions],
    ) -> Iterator[Images]:
        """Yield the base's frames of one candidate or repaint after another, then the pictures.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            candidates: number of pictures painted for each one that is kept; without a prompt, one.
                Along a path, as in `limner walk`, give 1 and no repaints, because the choice would
                jump between pictures.
            repaints: how often the best picture so far is repainted; a repaint is kept if it is
                better. Only for bases with a sampling plan (`Repaints`), and not without a prompt.
            repaint_strength: how far a repaint goes back into noise: its share of the steps, in
                (0, 1].
            scale: guidance scale of the base; its own default if not given.
            upsampler_sampler: sampler of the upsampler, if the base is a cascade.
            upsampler_steps: number of the upsampler's steps, if the base is a cascade.
            level: standard deviation of the noise on the small picture, if the base is a cascade.
            clean: how often the upsampler cleans the picture, if the base is a cascade.
            options: options of the base, where it has them, see `WalkOptions`.
        """
        search = Search(candidates, repaints, repaint_strength)
        cascade = {"upsampler_sampler": upsampler_sampler, "upsampler_steps": upsampler_steps}
        cascade |= {"level": level, "clean": clean}
        base_options = self._base_options(scale=scale, **cascade, **options)
        best = self._best(self.base.frames, search, n, c, noise, preview, base_options)
        count = self.base.frame_count(**base_options)
        yield from self._fill_frames(best, search, count, base_options) if preview else best

    def _best(
        self,
        paint: Callable[..., Iterator[Images]],
        search: Search,
        n: int,
        c: Condition,
        noise: Noise,
        preview: bool,
        base_options: Mapping[str, Any],
    ) -> Iterator[Images]:
        """Yield the frames of candidates and repaints, then the best pictures.

        Args:
            paint: paints candidates, and takes what the base's `frames` takes.
            search: how much is painted.
            n, c, noise, preview: see `GenerativeModel.frames`.
            base_options: checked options of the base.
        """
        text = torch.zeros(n, 1, dtype=torch.long) if c.text is None else c.text
        has_prompt = (text != 0).any(1).to(noise.streams.device)
        best, best_score = torch.empty(0), torch.full((n,), -torch.inf, device=has_prompt.device)
        if search.repaints:  # an error before the work
            plan, name = self._editing_base().plan(**base_options), "sampler.repaint_strength"
            plan.last(search.strength, base_options, name)
        for j in range(search.candidates + search.repaints if has_prompt.any() else 1):
            if j == search.candidates:
                paint = self._editing_base().edit_frames
            repaint = Edit(best, search.mask, search.strength, search.rounds)
            parts = (repaint,) if j >= search.candidates else ()
            noise_j = Noise(noise.streams, noise.draws + j * _CANDIDATE_STRIDE, noise.others)
            x = torch.empty(0)
            for x in paint(*parts, n, c, noise=noise_j, preview=preview, **base_options):
                if preview:
                    yield x
            score = self.captioner(x, text, c.weight) if has_prompt.any() else best_score
            is_better = has_prompt & (score > best_score)
            best = torch.where(is_better[:, None, None, None], x, best) if j else x
            best_score = torch.where(is_better, score, best_score)
        yield best

    def _fill_frames(
        self, best: Iterator[Images], search: Search, count: int, base_options: Mapping[str, Any]
    ) -> Iterator[Images]:
        """Yield as many frames without a prompt as with one.

        Args:
            best: what `_best` yields.
            search, base_options: as for `_best`.
            count: number of frames of a candidate.
        """
        x, count_yielded = torch.empty(0), 0
        for x in best:
            yield x
            count_yielded += 1
        for _ in range(self._count(search, count, base_options) - count_yielded):
            yield x

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
        """Edit with the base as often as there are candidates, and keep the best results: `Edits`.

        Args:
            image, c, mask, strength, rounds, seed, preview, options: as for `Repaints.edit`; a
                repaint goes back into noise no further than the edit.

        Raises:
            LimnerError: the base cannot edit; or as for `Repaints.edit`.
        """
        frames = partial(self._edit_frames, make_edit(self, image, mask, strength, rounds))
        yield from self.run_frames(frames, len(image), c, seed, preview, options)

    @finish_frames
    def _edit_frames(
        self, edit: Edit, n: int, c: Condition, *, noise: Noise, preview: bool, **options: Any
    ) -> Iterator[Images]:
        """Yield the frames of `edit`."""
        search, base_options = self._parts_of(options, edit.strength)
        search = search._replace(mask=edit.mask, rounds=edit.rounds)
        base, strength = self._editing_base(), edit.strength
        base.plan(**base_options).last(strength, base_options)  # an error that names this strength
        paint = partial(base.edit_frames, edit)
        best = self._best(paint, search, n, c, noise, preview, base_options)
        count = base.edit_count(strength, **base_options)
        yield from self._fill_frames(best, search, count, base_options) if preview else best

    def edit_count(self, strength: float = 1.0, **options: Any) -> int:
        """Return the number of frames of all edits and repaints, and the pictures."""
        search, base_options = self._parts_of(self._all_options(options), strength)
        count = self._editing_base().edit_count(strength, **base_options)
        return self._count(search, count, base_options)

    def effective_strength(self, strength: float, **options: Any) -> float:
        """Return the effective strength of the base."""
        _, base_options = self._parts_of(self._all_options(options), strength)
        return self._editing_base().effective_strength(strength, **base_options)

    def check_words(self, before: Condition, after: Condition) -> None:
        """Refuse prompts without words, and a base that cannot change words."""
        self._rewording_base().check_words(before, after)

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
        **options: Any,
    ) -> Iterator[Images]:
        """Paint the best pictures of the first prompt, and change them with the base: `Rewords`."""
        search, base_options = self._parts_of(options)
        if image is None:
            k, first = n // 2, slice(0, n // 2)
            best = (search, k, c.rows(first), noise.rows(first), preview, base_options)
            for image in self._best(self.base.frames, *best):
                if preview:
                    yield image.repeat(2, 1, 1, 1)
        reword_frames = self._rewording_base().reword_frames
        kwargs = {"noise": noise, "preview": preview, **base_options}
        yield from reword_frames(change, image, strength, n, c, **kwargs)

    def reword_count(self, is_given: bool = False, **options: Any) -> int:
        """Return the number of frames of the search, if any, and of the base."""
        base_options = self._base_options(**self._all_options(options))
        count = self._rewording_base().reword_count(True, **base_options)
        return count if is_given else self.frame_count(**options) + count

    def reconstruct_for_edit(self, image: Images, seed: Seeds = 0) -> Images:
        """Return what the base makes of given pictures: `Rewords`."""
        return self._rewording_base().reconstruct_for_edit(image, seed)

    def _rewording_base(self) -> Rewords:
        """Return the base, if it can change words."""
        return self._able_base(Rewords, "cannot change words")

    def attention_maps(self, x: Images, c: Condition) -> Float[Tensor, "b l h w"]:
        """Return the attention maps of the base: `Attends`."""
        return self._able_base(Attends, "have no attention maps").attention_maps(x, c)

    @classmethod
    def sample_schema(cls, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the schema of the options, of the base's only those that it takes."""
        schema = schema_for_base(super().sample_schema(), _OWN_OPTIONS, config)
        if config is None or issubclass(entry(config["base"]["model"]).model, Repaints):
            return schema
        fields = schema["properties"].items()
        kept = {name: field for name, field in fields if not name.startswith("repaint")}
        return schema | {"properties": kept}

    @classmethod
    def has_ability(cls, ability: type, config: Mapping[str, Any]) -> bool:
        """Return whether the base has an ability: this model only chooses among its pictures."""
        return base_has_ability(ability, config, Repaints if ability is Edits else ability)

    def frame_count(self, **options: Any) -> int:
        """Return the number of frames: those of all candidates and repaints, and the pictures."""
        search, base_options = self._parts_of(self._all_options(options))
        return self._count(search, self.base.frame_count(**base_options), base_options)

    def _count(self, search: Search, count: int, base_options: Mapping[str, Any]) -> int:
        """Return the number of frames, given that of a candidate."""
        total = search.candidates * count + 1
        if not search.repaints:
            return total
        repaint = self._editing_base().edit_count(search.strength, **base_options)
        return total + search.repaints * repaint

    def _all_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return options with the defaults of those that are left out or None."""
        return self.sampler_options({k: v for k, v in options.items() if v is not None})

    def _parts_of(
        self, options: Mapping[str, Any], strength: float = 1.0
    ) -> tuple[Search, dict[str, Any]]:
        """Return how much is painted for options, and those of the base.

        Args:
            options: checked options.
            strength: the most that a repaint may go back into noise.
        """
        candidates, repaints, repaint_strength = (options.get(name, 0) for name in _OWN_OPTIONS)
        search = Search(candidates, repaints, min(repaint_strength or 1.0, strength))
        return search, self._base_options(**options)

    def _editing_base(self) -> Repaints:
        """Return the base, if it can repaint pictures."""
        refusal = "cannot edit or repaint pictures; to only paint, give sampler.repaints=0"
        return self._able_base(Repaints, refusal)

    def _able_base(self, ability: type[_A], refusal: str) -> _A:
        """Return the base.

        Raises:
            LimnerError: it lacks an ability.
        """
        if isinstance(self.base, ability):
            return self.base
        raise LimnerError(f"{self.base.name} models, as this base, {refusal}")

    def _base_options(self, **options: Any) -> dict[str, Any]:
        """Return the base's sampling options, checked, with their defaults."""
        return self.base.sampler_options(
            {k: v for k, v in options.items() if k not in _OWN_OPTIONS and v is not None}
        )
