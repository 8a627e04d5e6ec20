"""What the base classes guarantee for every model."""

import math
import re
from typing import Annotated, TypedDict, Unpack

import pytest
import torch
import toys
from pydantic import Field

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.model import SAMPLE_BATCH, GenerativeModel, Learner, Turn, draw_labels
from limner.contract.noise import Noise

GREY = ImageSpec(1, 2, 2)
LABELLED = ImageSpec(1, 2, 2, labels=("a", "b", "c"), frequencies=(0.6, 0.3, 0.1))
PAIRED = ImageSpec(1, 4, 4, hint=ImageSpec(2, 4, 4))


class Loud(GenerativeModel):
    """A model with frames far outside [-1, 1], in half precision, with gradients."""

    def __init__(self, spec: ImageSpec, scale: float = 9.0, kind: str = "plain") -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(scale))

    def turns(self, batch: Batch, step: int, noise: Noise):
        yield Turn(self.weight.square())

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True,
        gain: float = 1.0,
    ):  # fmt: skip
        yield (gain * self.weight * noise.normal(*self.spec.shape)).half()


def test_frames_are_clamped_float32_without_gradients_and_the_caller_keeps_gradients():
    for frame in Loud(GREY).watch(3):
        assert frame.dtype == torch.float32
        assert float(frame.abs().max()) == 1
        assert not frame.requires_grad
        assert torch.is_grad_enabled(), "gradients stay enabled for the caller"


class Bytes(Loud):
    """A model that paints pictures from 0 to 255."""

    def frames(self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True):
        yield torch.linspace(0, 255, n * 4).view(n, *self.spec.shape)


def test_frames_from_0_to_255_are_refused_and_not_painted_white():
    with pytest.raises(LimnerError, match=r"frames of Bytes yields values from 0 to 255; yield"):
        Bytes(GREY).sample(2)


class Endless(Loud):
    """A model that paints infinite numbers."""

    def frames(self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True):
        yield math.inf * noise.normal(*self.spec.shape)


def test_infinite_numbers_are_refused_and_not_painted_white():
    with pytest.raises(LimnerError, match="the pictures of Endless are not finite"):
        Endless(GREY).sample(2)


class Growing(Loud):
    """A model whose first frame is smaller than the last."""

    def frames(self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True):
        yield noise.normal(*self.spec.shape)[:, :, 1:]
        yield noise.normal(*self.spec.shape)


def test_frames_of_several_sizes_are_refused():
    with pytest.raises(LimnerError, match=r"Growing yields pictures of 1 x 2, then of 2 x 2 \(h"):
        list(Growing(GREY).watch(2))


class Shrinking(Loud):
    """A model whose pictures are smaller than its specification says."""

    def frames(self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True):
        yield noise.normal(*self.spec.shape)[:, :, 1:]


def test_last_pictures_of_another_size_are_refused():
    model = Shrinking(GREY)
    with pytest.raises(LimnerError, match=r"last pictures of Shrinking are 1 x 2 .*; yield 2 x 2"):
        model.sample(2)
    with pytest.raises(LimnerError, match=r"last pictures of Shrinking are 1 x 2 .*; yield 2 x 2"):
        list(model.watch(2))


def test_the_constructor_is_the_configuration():
    model = Loud(GREY, 3)
    assert model.config == {"scale": 3.0, "kind": "plain"}
    assert model.spec == GREY
    with pytest.raises(LimnerError, match=r"did you mean 'model\.scale'"):
        Loud(GREY, scael=3)
    with pytest.raises(LimnerError, match=r"model.scale='big': input should be a valid number"):
        Loud(GREY, scale="big")
    with pytest.raises(LimnerError, match="Loud takes 2 options, not 3"):
        Loud(GREY, 1.0, "plain", 2)


def test_a_subclass_records_its_own_arguments():
    class Quiet(Loud):
        """A subclass with an option of its own."""

        def __init__(self, spec: ImageSpec, softness: float = 2.0) -> None:
            super().__init__(spec, scale=1 / softness)

    assert Quiet(GREY, softness=4).config == {"softness": 4.0}
    assert Quiet(GREY, softness=4).weight.item() == 0.25


def test_options_of_frames_are_checked_before_anything_is_painted():
    model = Loud(GREY)
    quiet = model.sample(2, gain=0.0)
    assert not quiet.any()
    with pytest.raises(LimnerError, match="unknown sampler option 'gian'; did you mean 'gain'"):
        model.sample(2, gian=2)
    with pytest.raises(LimnerError, match="gain='x'"):
        model.sample(2, gain="x")
    assert set(model.sample_schema()["properties"]) == {"gain"}


@pytest.mark.parametrize("n", [0, -1])
def test_fewer_than_one_picture_is_refused(n: int):
    with pytest.raises(LimnerError, match=f"at least 1, not {n}"):
        Loud(GREY).sample(n)
    with pytest.raises(LimnerError, match=f"at least 1, not {n}"):
        next(Loud(GREY).watch(n))


def test_many_pictures_are_painted_in_batches_with_the_same_seeds():
    model = Loud(GREY, scale=0.1)
    n = SAMPLE_BATCH + 3
    images = model.sample(n, seed=4)
    assert images.shape == (n, *GREY.shape)
    assert torch.equal(images[-3:], model.sample(3, seed=4 + SAMPLE_BATCH))


def test_conditions_follow_their_pictures_across_batches():
    model = toys.TwoStep(LABELLED)
    torch.nn.init.normal_(model.out.weight)
    n = SAMPLE_BATCH + 2
    label = torch.arange(n) % 3
    images = model.sample(n, Condition(label))
    last = model.sample(2, Condition(label[-2:]), seed=SAMPLE_BATCH)
    assert torch.allclose(images[-2:], last, atol=1e-5)
    assert torch.equal(
        model.sample(n, Condition(label[:1])), model.sample(n, Condition(torch.zeros_like(label)))
    )


@pytest.mark.parametrize(
    ("model", "c", "message"),
    [
        (toys.Dropout(GREY), Condition(torch.zeros(2, dtype=torch.int64)), "leave the label out"),
        (
            toys.Dropout(GREY),
            Condition(text=torch.zeros(2, 3, dtype=torch.int64)),
            "leave the text",
        ),
        (toys.Dropout(GREY), Condition(image=torch.zeros(2, 1, 2, 2)), "leave the image out"),
        (
            toys.TwoStep(LABELLED),
            Condition(torch.tensor([0, 3])),
            "label 3 is beyond the 3 classes",
        ),
        (toys.TwoStep(LABELLED), Condition(torch.tensor([0, 1, 2])), "3 conditions for 2 pictures"),
        (toys.TwoStep(LABELLED), Condition(torch.tensor([0, -2])), "label -2 is not a class"),
        (
            toys.Translator(PAIRED),
            Condition(),
            "paints from a conditioning image; give sample --hint",
        ),
        (toys.Translator(PAIRED), Condition(image=torch.zeros(2, 1, 4, 4)), "has 1 channels"),
    ],
)
def test_a_condition_that_does_not_fit_is_refused_in_one_line(model, c: Condition, message: str):
    with pytest.raises(LimnerError, match=message):
        model.sample(2, c)


def test_required_labels_are_drawn_at_the_datas_frequencies():
    n = 20_000
    label = draw_labels(LABELLED, Noise.sampling(0, n))
    shares = torch.bincount(label, minlength=3) / n
    for share, expected in zip(shares.tolist(), LABELLED.frequencies):
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
    even = draw_labels(ImageSpec(1, 2, 2, labels=("a", "b")), Noise.sampling(0, n))
    assert abs(float(even.double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(n)


def test_a_model_that_requires_labels_gets_them():
    class Demanding(toys.TwoStep):
        """A model that requires a label."""

        condition = "required"

        def velocity(self, x, t, c):
            assert c.label is not None
            return super().velocity(x, t, c)

    model = Demanding(LABELLED)
    assert torch.equal(model.sample(4, seed=1), model.sample(4, seed=1))


def test_sampling_restores_the_mode_even_if_it_stops_early():
    model = toys.TwoStep(GREY).train()
    frames = model.watch(1)
    next(frames)
    frames.close()
    assert model.training
    model.eval().sample(1)
    assert not model.training


def test_nested_learners_that_are_not_trained_stay_in_evaluation_mode():
    model = toys.Nested(GREY, judge=toys.Classifier(GREY)).train()
    assert model.training
    assert not any(part.training for part in model.judge.modules())
    assert not any(part.training for part in model.eval().modules())

    class Joint(toys.Nested):
        """A model that trains its judge as well."""

        def players(self) -> dict[str, torch.nn.Module]:
            return {"model": self}

    assert Joint(GREY, judge=toys.Classifier(GREY)).train().judge.training


def test_parameters_are_counted_once_and_only_where_trained():
    model = toys.Nested(GREY, judge=toys.Classifier(GREY))
    assert model.parameter_count() == sum(p.numel() for p in model.painter.parameters())
    assert Loud(GREY).parameter_count() == 1


def test_a_model_without_parameters_has_a_device():
    class Bare(Learner):
        """A learner without parameters."""

        def turns(self, batch: Batch, step: int, noise: Noise):
            yield from ()

    assert Bare().device == torch.device("cpu")


@pytest.mark.parametrize("name", ["condition", "memory", "device", "sample", "spec"])
def test_a_layer_with_the_name_of_a_model_attribute_is_refused(name: str):
    class Hidden(Loud):
        def __init__(self, spec: ImageSpec) -> None:
            super().__init__(spec)
            setattr(self, name, torch.nn.Linear(1, 1))

    with pytest.raises(LimnerError, match=rf"Hidden sets self\.{name}, which every model has alr"):
        Hidden(GREY)


@pytest.mark.parametrize("name", ["name", "config", "frames", "players"])
def test_a_value_with_the_name_of_a_model_attribute_is_refused(name: str):
    class Hidden(Loud):
        def __init__(self, spec: ImageSpec) -> None:
            super().__init__(spec)
            setattr(self, name, 3)

    with pytest.raises(LimnerError, match=rf"Hidden sets self\.{name}, which every model has alr"):
        Hidden(GREY)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda model: [model], "players of Parts returns list; return modules by name, as {'gen"),
        (lambda model: {"a": model.parameters()}, "players of Parts has generator as 'a'; return"),
    ],
)
def test_players_are_modules_by_name(parts, message: str):
    class Parts(Loud):
        def players(self):
            return parts(self)

    with pytest.raises(LimnerError, match=re.escape(message)):
        Parts(GREY)


class Shared(TypedDict, total=False):
    """Options of several models."""

    width: Annotated[int, Field(default=3)]
    rank: int | None


class Wide(Loud):
    """A model with the shared options."""

    def __init__(self, spec: ImageSpec, **options: Unpack[Shared]) -> None:
        super().__init__(spec)
        self.options = dict(options)


class Wider(Wide):
    """A model that sets one option of its base class."""

    def __init__(self, spec: ImageSpec, width: int = 9) -> None:
        super().__init__(spec, width=width)


class Bare(Wide):
    """A model that sets no option of its base class."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__(spec)


def test_a_base_class_fills_in_the_shared_options_that_a_subclass_leaves_out():
    assert Wider(GREY).options == {"width": 9, "rank": None}
    assert Bare(GREY).options == {"width": 3, "rank": None}


def test_positional_options_follow_the_order_of_the_constructor():
    class Deep(Wide):
        def __init__(self, spec: ImageSpec, depth: int = 1, **options: Unpack[Shared]) -> None:
            super().__init__(spec, **options)

    assert Deep(GREY, 5).config == {"width": 3, "rank": None, "depth": 5}
    with pytest.raises(LimnerError, match="Deep takes 1 options, not 2"):
        Deep(GREY, 5, 6)


def test_a_class_is_described_by_its_own_name_and_not_by_that_of_its_base():
    class Derived(toys.TwoStep):
        pass

    assert toys.TwoStep(LABELLED).description()["model"] == "toy-two-step"
    assert Derived(LABELLED).description()["model"] == ""
