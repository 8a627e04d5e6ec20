"""Best of n: candidates from a base, chosen with a captioner, and the improvement."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from toy import COLOURS, one_thread

from limner.contract.abilities import Attends
from limner.contract.editing import Edits, Rewords
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel
from limner.contract.noise import Blend, Noise
from limner.contract.registry import build
from limner.contract.rewording import Rewording, align_prompts
from limner.contract.text import text_condition, text_spec
from limner.diffusion.best_of_n import BestOfN
from limner.diffusion.sampling import Edit, Plan, Repaints
from limner.maths.samplers.euler import Euler
from limner.training.loop import Loop, TrainOptions

SPEC = ImageSpec(3, 8, 8, text=text_spec(4))
SMALL = {"channels": (8, 16), "blocks": (0, 1), "words": 16, "layers": 1}
WORDS = ("red", "blue")


class IgnoresPrompts(GenerativeModel):
    """A model that paints red or blue at random and ignores the prompt."""

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator:
        yield from ()

    def frames(self, n, c=Condition(), *, noise, preview=True) -> Iterator[Images]:
        if preview:
            yield torch.zeros(n, 3, 8, 8)
        x = COLOURS[noise.integers(2)][:, :, None, None].expand(n, 3, 8, 8)
        yield x * (0.5 + 0.5 * noise.uniform()[:, None, None, None])

    def frame_count(self, **options) -> int:
        return 2


class BrightnessScore(nn.Module):
    """A captioner that prefers bright pictures."""

    def forward(self, x, text, weight=None):
        return x.mean((1, 2, 3))


class PaintsShares(IgnoresPrompts, Repaints):
    """A model whose repaints turn a share of a picture's brightness, 1 minus the strength, into
    that of another picture that it paints."""

    edits: list[Edit]

    def plan(self, **options) -> Plan:
        denoiser: Any = None
        return Plan(Euler(), denoiser, torch.tensor([1.0, 0.5, 0.0]))

    def first(self, noise):
        raise NotImplementedError

    def edit_frames(self, edit: Edit, n, c, *, noise, preview, **options) -> Iterator[Images]:
        self.edits.append(edit)
        (*_, other) = self.frames(n, c, noise=noise, preview=False)
        if preview:
            yield edit.image
        yield edit.image + edit.strength * (other - edit.image)

    def edit_count(self, strength: float = 1.0, **options) -> int:
        return 2


@pytest.fixture
def repainting(bright: BestOfN) -> BestOfN:
    base = PaintsShares()
    base.spec, base.config, base.edits = SPEC, {}, []
    bright.base = base
    return bright


@pytest.fixture
def bright() -> BestOfN:
    model = BestOfN(SPEC, base=model_without_prompts(), **SMALL)
    model.captioner = BrightnessScore()  # pyright: ignore
    return model


def model_without_prompts() -> IgnoresPrompts:
    model = IgnoresPrompts()
    model.spec, model.config = SPEC, {}
    return model


def as_condition(*prompts: str) -> Condition:
    return text_condition(SPEC, list(prompts))


def test_it_has_the_abilities_of_its_base():
    def can(ability: type, model: str, **config: Any) -> bool:
        return BestOfN.has_ability(ability, {"base": {"model": model, "config": config}})

    assert can(Edits, "edm") and can(Rewords, "edm") and can(Attends, "edm")
    assert can(GenerativeModel, "gan") and not can(Edits, "gan") and not can(Rewords, "glow")
    for base, config in (("edm", {}), ("edm", {"attention": 0}), ("gan", {})):
        stages = {"base": {"model": base, "config": config}, "upsampler": "flow-matching"}
        assert can(Rewords, "cascade", **stages) == (base == "edm" and not config)


def test_one_candidate_is_the_sample_of_the_base(bright: BestOfN):
    c = as_condition("red", "blue", "red")
    x = bright.sample(3, c, seed=5, candidates=1)
    assert torch.equal(x, bright.base.sample(3, c, seed=5))
    drawn = [Noise.sampling(5, 3) for _ in range(2)]  # streams that something drew from before
    for noise in drawn:
        noise.normal(1)
    (*_, later), (*_, expected) = (
        model.frames(3, c, noise=noise, **options)
        for model, noise, options in (
            (bright, drawn[0], {"candidates": 1}),
            (bright.base, drawn[1], {}),
        )
    )
    assert torch.equal(later, expected)
    assert not torch.equal(later, x)


def test_the_first_of_equal_candidates_is_kept(bright: BestOfN, monkeypatch):
    monkeypatch.setattr(bright.captioner, "forward", lambda x, text, weight=None: torch.zeros(3))
    c = as_condition("red", "blue", "red")
    assert torch.equal(bright.sample(3, c, seed=5), bright.base.sample(3, c, seed=5))


def test_candidates_are_scored_with_the_weights_of_words(bright: BestOfN, monkeypatch):
    weights: list[torch.Tensor | None] = []
    monkeypatch.setattr(
        bright.captioner,
        "forward",
        lambda x, text, weight=None: weights.append(weight) or x.mean((1, 2, 3)),
    )
    c = as_condition("(red:2)")
    assert c.weight is not None and float(c.weight.max()) == 2
    bright.sample(1, c, candidates=2)
    assert len(weights) == 2
    assert all(weight is not None and torch.equal(weight, c.weight) for weight in weights)


def test_the_sample_is_the_candidate_with_the_best_score(bright: BestOfN):
    frames = [*bright.watch(4, as_condition("red").repeat(4), seed=3, candidates=5)]
    assert len(frames) == bright.frame_count(candidates=5) == 5 * 2 + 1
    candidates = torch.stack(frames[1:-1:2])  # candidates, n, ...
    scores = candidates.mean((2, 3, 4))
    assert len({*scores.flatten().tolist()}) == 20, (
        "two candidates are equal: they must use separate random streams"
    )
    assert torch.equal(frames[-1], candidates[scores.argmax(0), torch.arange(4)])


def test_more_candidates_never_have_a_lower_best_score(bright: BestOfN):
    c = as_condition("red").repeat(6)
    scores = [bright.sample(6, c, seed=1, candidates=k).mean((1, 2, 3)) for k in (1, 2, 4, 8)]
    for few, many in itertools.pairwise(scores):
        assert (many >= few).all()
    assert (scores[-1] > scores[0]).any()


def test_without_a_prompt_the_first_candidate_is_the_sample(bright: BestOfN):
    expected = bright.base.sample(2, seed=0)
    assert torch.equal(bright.sample(2, seed=0, candidates=8), expected)
    frames = [*bright.watch(2, seed=0, candidates=8)]
    assert len(frames) == bright.frame_count(candidates=8) and torch.equal(frames[-1], expected)
    mixed = bright.sample(2, as_condition("", "red"), seed=0, candidates=8)
    assert torch.equal(mixed[0], expected[0]) and not torch.equal(mixed[1], expected[1])


def test_a_repaint_starts_from_the_best_so_far_and_is_kept_if_it_is_better(repainting: BestOfN):
    options = {"candidates": 2, "repaints": 4, "repaint_strength": 0.75}
    frames = [*repainting.watch(5, as_condition("red").repeat(5), seed=3, **options)]
    assert len(frames) == repainting.frame_count(**options) == (2 + 4) * 2 + 1
    *painted, result = torch.stack(frames[1::2] + frames[-1:])
    best, kept = torch.where(brighter(painted[1], painted[0]), painted[1], painted[0]), 0
    base = repainting.base
    assert isinstance(base, PaintsShares) and len(base.edits) == 4
    for edit, repaint in zip(base.edits, painted[2:], strict=True):
        assert torch.equal(edit.image, best) and edit.strength == 0.75 and edit.mask is None
        better = brighter(repaint, best)
        best, kept = torch.where(better, repaint, best), kept + int(better.sum())
    assert 0 < kept < 5 * 4
    assert torch.equal(result, best)
    others = [
        edit.image + (paint - edit.image) / 0.75 for edit, paint in zip(base.edits, painted[2:])
    ]
    values = torch.stack([*painted[:2], *others]).mean((2, 3, 4)).mul(1e6).round()
    assert len({*values.flatten().tolist()}) == 5 * 6, "two pictures use the same random numbers"


def brighter(x: Images, y: Images) -> torch.Tensor:
    return (x.mean((1, 2, 3)) > y.mean((1, 2, 3)))[:, None, None, None]


def test_a_picture_without_a_prompt_is_not_repainted(repainting: BestOfN):
    expected = repainting.base.sample(2, seed=0)
    options = {"candidates": 2, "repaints": 5, "repaint_strength": 1.0}
    frames = [*repainting.watch(2, seed=0, **options)]
    assert len(frames) == repainting.frame_count(**options)
    assert all(torch.equal(frame, expected) for frame in frames[1:])
    assert isinstance(repainting.base, PaintsShares) and not repainting.base.edits
    mixed = repainting.sample(2, as_condition("", "red"), seed=0, **options)
    assert torch.equal(mixed[0], expected[0]) and not torch.equal(mixed[1], expected[1])


def test_a_base_that_repaints_takes_the_last_steps_again():
    walking = build("flow-matching", SPEC, channels=(8,), attention=0)
    assert isinstance(walking, Repaints)
    torch.manual_seed(0)
    with torch.no_grad():  # the last layer is 0 at first, and guidance has no effect
        for p in walking.parameters():
            p += 0.1 * torch.randn_like(p)
    model = BestOfN(SPEC, base=walking, **SMALL)
    model.captioner = BrightnessScore()  # pyright: ignore
    options = {"candidates": 2, "repaints": 3, "repaint_strength": 0.5, "steps": 6, "scale": 2.0}
    c, seeds = as_condition("red").repeat(3), [7, Blend(7, 9, 0.4), 9]
    frames = [*model.eval().watch(3, c, seed=seeds, **options)]
    assert len(frames) == model.frame_count(**options) == 2 * 7 + 3 * 4 + 1
    assert torch.equal(frames[6], walking.sample(3, c, seed=seeds, steps=6, scale=2.0))
    candidates, x = torch.stack([frames[6], frames[13]]), torch.zeros(0)
    best = torch.where(brighter(*candidates.flip(0)), candidates[1], candidates[0])
    for j in range(3):
        noise = Noise.sampling(seeds, 3, "cpu")
        noise.draws = (2 + j) << 32
        repaint = partial(walking.edit_frames, Edit(best, None, 0.5), 3)
        (*_, x) = repaint(c, noise=noise, preview=False, steps=6, scale=2.0)
        assert torch.equal(frames[14 + 4 * j + 3], x)
        best = torch.where(brighter(x, best), x, best)
    assert torch.equal(frames[-1], best)


def test_an_edit_is_the_best_of_several_and_repaints_go_no_further(repainting: BestOfN):
    base, image = repainting.base, torch.zeros(4, 3, 8, 8)
    assert isinstance(base, PaintsShares)
    mask = torch.zeros(4, 1, 8, 8)
    mask[..., :4] = 1
    options = {"candidates": 3, "repaints": 2, "repaint_strength": 0.9}
    c = as_condition("red").repeat(4)
    frames = [*repainting.edit(image, c, mask=mask, strength=0.5, seed=2, **options)]
    assert len(frames) == repainting.edit_count(0.5, **options) == (3 + 2) * 2 + 1
    edits, results = base.edits[:3], torch.stack(frames[1:6:2])
    assert all(torch.equal(edit.image, image) and edit.strength == 0.5 for edit in edits)
    assert all(torch.equal(edit.mask, mask) for edit in base.edits if edit.mask is not None)
    assert [edit.strength for edit in base.edits] == [0.5] * 5
    assert [edit.rounds for edit in base.edits] == [4] * 5, "the default with a mask"
    best = results[results.mean((2, 3, 4)).argmax(0), torch.arange(4)]
    assert torch.equal(base.edits[3].image, best)
    painted = torch.stack(frames[1:10:2])
    last = painted[painted.mean((2, 3, 4)).argmax(0), torch.arange(4)]
    assert torch.equal(frames[-1], last)
    single = [*base.edit(image, c, mask=mask, strength=0.5, seed=2)]
    assert torch.equal(results[0], single[-1])


def test_edits_and_attention_are_those_of_the_base():
    walking = build("flow-matching", SPEC, channels=(8, 16), attention=1).eval()
    assert isinstance(walking, Repaints) and isinstance(walking, Attends)
    model = BestOfN(SPEC, base=walking, **SMALL).eval()
    image, c = torch.rand(2, 3, 8, 8) - 0.5, as_condition("red", "blue")
    one = {"candidates": 1, "steps": 4}
    (*_, edit), (*_, expected) = (
        of.edit(image, c, strength=0.5, seed=3, **options)
        for of, options in ((model, one), (walking, {"steps": 4}))
    )
    assert torch.equal(edit, expected)
    assert model.effective_strength(0.6, steps=4) == walking.effective_strength(0.6, steps=4) == 0.5
    assert torch.equal(model.attention_maps(image, c), walking.attention_maps(image, c))


def test_a_rewording_paints_the_best_picture_and_changes_it_with_the_base():
    walking = build("flow-matching", SPEC, channels=(8, 16), attention=1).eval()
    for parameter in walking.parameters():  # layers that start at zero shall act, too
        nn.init.normal_(parameter, std=0.1)
    assert isinstance(walking, Rewords)
    model = BestOfN(SPEC, base=walking, **SMALL).eval()
    model.captioner = BrightnessScore()  # pyright: ignore
    before, after = as_condition("red dog"), as_condition("blue dog")
    assert before.text is not None and after.text is not None
    texts = torch.cat([before.text, after.text])
    change = Rewording(align_prompts(texts), torch.ones(texts.shape[1]))
    options = {"steps": 4, "scale": 2.0}
    search = {"candidates": 3, "repaints": 1}
    frames = [*model.reword(before, after, change, seed=[5, 6], **options, **search)]
    best = torch.cat([model.sample(1, before, seed=s, **options, **search) for s in (5, 6)])
    assert all(frame.shape == (4, 3, 8, 8) for frame in frames)
    assert len(frames) == model.reword_count(**options, **search)
    assert torch.allclose(frames[-1][:2], best, atol=1e-5)
    for given in ({}, {"image": best, "strength": 0.5}):
        frames = [*model.reword(before, after, change, seed=[5, 6], **options, **search, **given)]
        x = frames[-1]
        if given:
            assert len(frames) <= model.reword_count(True, **options, **search)
        (*_, y) = walking.reword(
            before, after, change, seed=[5, 6], **options, **({"image": best} | given)
        )
        assert torch.allclose(x, y, atol=1e-5)
        assert not torch.allclose(x[2:], x[:2], atol=1e-5), "the words act"
    assert torch.equal(model.reconstruct_for_edit(best), walking.reconstruct_for_edit(best))


def test_a_cascade_as_base_has_its_own_options():
    small = build("flow-matching", replace(SPEC, height=4, width=4), channels=(8,), attention=0)
    base = build("cascade", SPEC, base=small, options={"channels": (8,)}).eval()
    for parameter in base.parameters():  # the last layers are 0 at first
        nn.init.normal_(parameter, std=0.1)
    assert isinstance(base, GenerativeModel)
    model, c = BestOfN(SPEC, base=base, **SMALL).eval(), as_condition("red", "blue")
    options = {"steps": 2, "upsampler_steps": 3, "upsampler_sampler": "heun", "level": 0.1}
    options["clean"] = 1
    assert options.keys() <= {*BestOfN.sample_schema(model.config)["properties"]}
    frames = [*model.watch(2, c, seed=5, candidates=1, **options)]
    assert len(frames) == model.frame_count(candidates=1, **options)
    assert torch.equal(frames[-1], base.sample(2, c, seed=5, **options))
    assert not torch.equal(frames[-1], base.sample(2, c, seed=5, **options | {"clean": 0}))


def test_bases_that_cannot_edit_or_attend_say_so(bright: BestOfN):
    image, c = torch.zeros(1, 3, 8, 8), as_condition("red")
    with pytest.raises(LimnerError, match="cannot edit or repaint pictures"):
        next(bright.edit(image, c))
    with pytest.raises(LimnerError, match="have no attention maps"):
        bright.attention_maps(image, c)
    with pytest.raises(LimnerError, match="cannot change words"):
        bright.check_words(c, c)


def test_only_bases_that_repaint_have_the_options_of_repaints(bright: BestOfN):
    def options(base: str, **config: object) -> set[str]:
        base_model = build(base, SPEC, **config)
        assert isinstance(base_model, GenerativeModel)
        model = BestOfN(SPEC, base=base_model, **SMALL)
        return {"repaints", "repaint_strength"} & {
            *BestOfN.sample_schema(model.config)["properties"]
        }

    assert options("flow-matching", channels=(8,), attention=0) == {
        "repaints",
        "repaint_strength",
    }
    assert options("gan", channels=8) == set()
    with pytest.raises(LimnerError, match=r"only paint, give sampler\.repaints=0"):
        bright.sample(1, as_condition("red"), repaints=1)
    with pytest.raises(LimnerError, match="cannot edit or repaint pictures"):
        bright.frame_count(repaints=1)
    for wrong in ({"repaints": -1}, {"repaint_strength": 0.0}, {"repaint_strength": 1.5}):
        with pytest.raises(LimnerError, match=next(iter(wrong))):
            bright.sample(1, as_condition("red"), **wrong)


def test_a_part_of_one_step_is_refused_before_anything_is_painted(monkeypatch):
    walking = build("flow-matching", SPEC, channels=(8,), attention=0)
    assert isinstance(walking, Repaints)
    model, c = BestOfN(SPEC, base=walking, **SMALL).eval(), as_condition("red")
    alone = {"steps": 1, "repaints": 1, "repaint_strength": 1.0, "candidates": 1}
    assert model.sample(1, c, **alone).shape == (1, 3, 8, 8)
    monkeypatch.setattr(walking, "first", lambda noise: pytest.fail("a candidate is painted"))
    name = r"sampler\.repaint_strength"
    with pytest.raises(LimnerError, match=rf"{name}=0\.3 .* sampler\.steps, or {name}=1$"):
        model.sample(1, c, steps=1, repaints=1)
    image = torch.zeros(1, 3, 8, 8)
    for strength, wrong in ((1.0, name), (0.5, " strength")):
        with pytest.raises(LimnerError, match=f"{wrong}=0.* or {wrong.strip()}=1$"):
            next(model.edit(image, c, strength=strength, steps=1, repaints=1))


def test_bases_with_more_conditions_than_captions_are_refused():
    hint = ImageSpec(1, 8, 8)
    for spec, kind in (
        (ImageSpec(3, 8, 8, labels=("a", "b"), text=SPEC.text), "classes"),
        (ImageSpec(3, 8, 8, text=SPEC.text, hint=hint), "conditioning images"),
    ):
        base = model_without_prompts()
        base.spec = spec
        with pytest.raises(LimnerError, match=f"takes {kind}, too; give a base with captions"):
            BestOfN(SPEC, base=base, **SMALL)


def test_a_trained_captioner_makes_a_base_follow_prompts():
    def batches(first: int, n: int) -> Batch:
        label = Noise.keyed(7, 0, torch.arange(first, first + n)).integers(2)
        x = COLOURS[label][:, :, None, None].expand(n, 3, 8, 8).contiguous()
        return Batch(x, as_condition(*(WORDS[i] for i in label.tolist())))

    with one_thread():
        model = BestOfN(SPEC, base=model_without_prompts(), **SMALL)
        loop = Loop(model, batches, TrainOptions(steps=60, batch=32, lr=6e-3, ema=0.9))
        loop.prepare()
        for _ in range(60):
            loop.advance()
        average = loop.average
        assert isinstance(average, BestOfN)
        red = torch.arange(64) % 2 == 0
        c = as_condition(*WORDS).rows(1 - red.long())
        right = {}
        for k in (1, 8):
            images = average.sample(64, c, candidates=k)
            right[k] = int((images[:, 0, 0, 0].gt(0) == red).sum())
    assert right[1] < 48, "the base alone follows prompts"
    assert right[8] >= 62, "1 in 256 pictures has no correct candidate"


def test_the_words_of_all_captions_of_several_batches_are_learnt(bright: BestOfN):
    model = BestOfN(SPEC, base=bright.base, **SMALL)
    prompts = (("red", "blue"), ("green", "dog"), ("cat", "tree"))
    batches = [Batch(torch.zeros(2, 3, 8, 8), as_condition(*pair)) for pair in prompts]
    model.prepare(iter(batches))
    tokens = {int(token) for batch in batches for token in batch.c.text.flatten()} - {0}
    assert {*model.captioner.known.nonzero().flatten().tolist()} == tokens and len(tokens) == 6
    model.prepare(itertools.repeat(batches[0]))  # data without end


def test_training_adds_noise_of_any_deviation_up_to_the_grain(monkeypatch):
    """The loss is the mean of -log p of the captions, given the noisy pictures."""
    model, seen = BestOfN(SPEC, base=model_without_prompts(), **SMALL, grain=0.3), []
    scores = torch.linspace(-3, -1, 500)
    monkeypatch.setattr(model.captioner, "forward", lambda x, text: seen.append(x) or scores)
    x = torch.full((500, 3, 8, 8), 0.5)
    batch = Batch(x, as_condition("red").repeat(500))
    (turn,) = model.turns(batch, 0, Noise.keyed(0, 0, range(500)))
    assert float(turn.loss) == pytest.approx(2.0)
    assert turn.of == "captioner" and model.players() == {"captioner": model.captioner}
    deviations = (seen[0] - x).std((1, 2, 3))
    assert torch.equal(x, torch.full_like(x, 0.5)), "the batch is changed"
    # uniform in [0, 0.3]; a deviation of 192 numbers has a relative error of 5%
    quantiles = torch.quantile(deviations, torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(quantiles, torch.tensor([0.03, 0.15, 0.27]), atol=0.03, rtol=0)
    assert deviations.max() < 0.36


def test_unsuitable_bases_and_options_are_refused():
    base = model_without_prompts()
    with pytest.raises(LimnerError, match="have none; give others"):
        BestOfN(ImageSpec(3, 8, 8), base=base)
    with pytest.raises(LimnerError, match="another shape"):
        BestOfN(ImageSpec(3, 16, 16, text=text_spec(4)), base=base)
    with pytest.raises(LimnerError, match=r"give data\.tokens=4"):
        BestOfN(ImageSpec(3, 8, 8, text=text_spec(5)), base=base)
    with pytest.raises(LimnerError, match="other text; give the same"):
        BestOfN(ImageSpec(3, 8, 8, text=replace(text_spec(4), sha256="")), base=base)
    with pytest.raises(LimnerError, match="best-of-n model already"):
        BestOfN(SPEC, base=BestOfN(SPEC, base=base, **SMALL), **SMALL)
    with pytest.raises(LimnerError, match="give both the same number"):
        BestOfN(SPEC, base=base, channels=(8,), blocks=(1, 2))
    with pytest.raises(LimnerError, match="greater than or equal to 1"):
        BestOfN(SPEC, base=base, **SMALL).sample(1, as_condition("red"), candidates=0)
    walking = build("flow-matching", SPEC, channels=(8,), attention=0)
    assert isinstance(walking, GenerativeModel)
    walks = BestOfN(SPEC, base=walking, **SMALL)
    assert walks.frame_count(candidates=3, steps=5) == 3 * 6 + 1
    with pytest.raises(LimnerError, match="unknown sampler option"):
        BestOfN(SPEC, base=base, **SMALL).sample(1, as_condition("red"), steps=3)
