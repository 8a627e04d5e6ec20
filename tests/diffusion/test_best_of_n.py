"""Best of n: candidates from a base, chosen with a captioner, and the improvement."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from toy import COLOURS, one_thread

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.contract.text import prompted, text_spec
from limner.diffusion.best_of_n import BestOfN
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
    return prompted(SPEC, list(prompts))


def test_one_candidate_is_the_sample_of_the_base(bright: BestOfN):
    c = as_condition("red", "blue", "red")
    x = bright.sample(3, c, seed=5, candidates=1)
    assert torch.equal(x, bright.base.sample(3, c, seed=5))


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


def test_unsuitable_bases_and_options_are_refused():
    base = model_without_prompts()
    with pytest.raises(LimnerError, match="have none; give others"):
        BestOfN(ImageSpec(3, 8, 8), base=base)
    with pytest.raises(LimnerError, match="another shape"):
        BestOfN(ImageSpec(3, 16, 16, text=text_spec(4)), base=base)
    with pytest.raises(LimnerError, match=r"give data\.tokens=4"):
        BestOfN(ImageSpec(3, 8, 8, text=text_spec(5)), base=base)
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
