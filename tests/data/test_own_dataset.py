"""A data set of the user is refused in one line if it contradicts its specification."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.registry import build
from limner.contract.text import text_spec
from limner.data import Dataset, Stream
from limner.evaluate.picture_sets import RealPictures
from limner.runtime.log import read_log
from limner.training import run
from limner.training.options import TrainOptions
from limner.training.recipe import Recipe
from limner.training.validation import Validation

SPEC = ImageSpec(3, 8, 6)
CLASSES = ImageSpec(3, 8, 6, labels=("a", "b"))
WORDS = ImageSpec(3, 8, 6, text=text_spec())
DRAWN = ImageSpec(3, 8, 6, hint=ImageSpec(1, 8, 6))
pytestmark = pytest.mark.usefixtures("unchecked_shapes")


class Base(Dataset):
    source = "own"

    def __init__(self, **attributes: Any) -> None:
        self.spec = SPEC
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return 4

    def pixels(self, indices: Tensor) -> Tensor:
        return (indices[:, None, None, None] * 60).expand(-1, 3, 8, 6).to(torch.uint8)


def dataset_class(**methods: Callable[..., Any]) -> type[Base]:
    return type("Own", (Base,), methods)


def with_changed_pixels(change: Callable[[Tensor], Any]) -> type[Base]:
    return dataset_class(pixels=lambda self, indices: change(Base.pixels(self, indices)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.float() / 255, "pixels of Own returns float32; return a tensor of uint8"),
        (lambda x: x.float(), "pixels of Own returns float32"),
        (lambda x: x > 128, "pixels of Own returns bool"),
        (lambda x: x.numpy(), "pixels of Own returns ndarray"),
        (lambda x: None, "pixels of Own returns NoneType"),
        (lambda x: x[:, 0], r"returns 4 x 8 x 6, but its spec says 4 x 3 x 8 x 6 \(pictures"),
        (lambda x: x[:, :1], "returns 4 x 1 x 8 x 6, but its spec says 4 x 3 x 8 x 6"),
        (lambda x: x.permute(0, 2, 3, 1), "returns 4 x 8 x 6 x 3, but its spec says"),
        (lambda x: x.repeat(1, 1, 2, 2), "returns 4 x 3 x 16 x 12, but its spec says"),
        (lambda x: x[:2], "returns 2 x 3 x 8 x 6, but its spec says"),
    ],
)
def test_pixels_must_be_bytes_of_the_specified_shape(change, message: str):
    for data in (with_changed_pixels(change)(), with_changed_pixels(change)()):
        with pytest.raises(LimnerError, match=message):
            Stream(data).batch(0, 4)
        with pytest.raises(LimnerError, match=message):
            RealPictures(data, name="own").pictures(torch.arange(4))


@pytest.mark.parametrize(
    ("method", "spec", "gives", "message"),
    [
        ("images", SPEC, torch.full((4, 3, 8, 6), 255.0), "returns values from 255 to 255; return"),
        ("images", SPEC, torch.zeros(4, 3, 8, 6).byte(), "images of Own returns uint8; return"),
        ("images", SPEC, torch.full((4, 3, 8, 6), torch.nan), "returns values from nan to nan"),
        ("captions", WORDS, ["an apple"], "returns 1 captions for 4 pictures; return one"),
        ("captions", WORDS, "four", "captions of Own returns str; return a list"),
        ("captions", WORDS, None, "captions of Own returns NoneType; return a list"),
        ("captions", WORDS, [3, 3, 3], "captions of Own returns a list with int; return a list"),
        ("hints", DRAWN, torch.full((4, 1, 8, 6), 255.0), "hints of Own returns values from 255"),
        ("hints", DRAWN, torch.zeros(4, 1, 4, 3), "4 x 1 x 4 x 3, but its spec says 4 x 1 x 8"),
        ("hints", DRAWN, None, "hints of Own returns NoneType; return float32"),
        ("hints", SPEC, torch.zeros(4, 1, 8, 6), "returns pictures; describe them in spec"),
    ],
)
def test_the_results_of_methods_must_agree_with_the_specification(
    method: str, spec, gives, message: str
):
    data = dataset_class(**{method: lambda *args: gives})(spec=spec)
    with pytest.raises(LimnerError, match=message):
        Stream(data).batch(0, 4)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"spec": None}, "Base has no spec; write self.spec = ImageSpec"),
        ({"spec": CLASSES}, "Base has spec.labels but no labels; give both, class names"),
        (
            {"labels": torch.arange(4) % 2},
            "Base has labels but no spec.labels; give both, class names",
        ),
        ({"spec": CLASSES, "labels": ["a", "b", "a", "b"]}, "the labels of Base are list; give cl"),
        ({"spec": CLASSES, "labels": torch.zeros(4)}, "the labels of Base are float32"),
        (
            {"spec": CLASSES, "labels": torch.arange(4)},
            "Base has the label 3, but its spec has 2 cla",
        ),
        ({"spec": CLASSES, "labels": torch.tensor([0, 1, 2, 0])}, "Base has the label 2, but its"),
        ({"spec": CLASSES, "labels": torch.tensor([0, 1, -2, 0])}, "Base has the label -2, but"),
        ({"spec": CLASSES, "labels": torch.arange(2)}, "Base has 2 labels for 4 pictures"),
        ({"weights": -torch.ones(4)}, "the weights of Base are not a tensor of 4 non-negative"),
        ({"weights": torch.ones(8)}, "the weights of Base are not a tensor of 4 non-negative"),
        ({"spec": WORDS}, "the spec of Base has text, but no captions; write captions"),
        ({"spec": DRAWN}, r"do not agree; set both with compute_hints\('edges'\)"),
        ({"hint": "edges"}, r"do not agree; set both with compute_hints\('edges'\)"),
    ],
)
def test_attributes_must_agree_with_each_other(attributes: dict[str, Any], message: str):
    with pytest.raises(LimnerError, match=message):
        Stream(Base(**attributes))
    with pytest.raises(LimnerError, match=message):
        RealPictures(Base(**attributes))


def test_a_data_set_without_pictures_is_not_replaced_by_the_source_of_the_recipe(tmp_path):
    options = ["data.size=16", "data.text=false", "data.label=none", "train.steps=1"]
    recipe = Recipe.of("vae", "scenes", options)
    empty = dataset_class(__len__=lambda self: 0)
    for data, message in (
        (empty(), "own contains no pictures"),
        (empty, r"Own is a class; give a data set, as Own\(\)"),
        ([1], "list is not a data set; write"),
    ):
        with pytest.raises(LimnerError, match=message):
            run.train(recipe, tmp_path / "run", dataset=data, device="cpu")


def test_held_out_pictures_of_the_source_are_not_used_for_another_data_set(tmp_path):
    """Otherwise the log would have a loss on held-out scenes, which the model never saw."""
    grey = dataset_class(
        pixels=lambda self, indices: torch.full((len(indices), 3, 16, 16), 99).byte()
    )
    data = grey(spec=ImageSpec(3, 16, 16))
    options = ["data.size=16", "data.text=false", "data.label=none", "model.channels=4"]
    options += ["train.steps=2", "train.log_every=1", "train.samples=0"]
    recipe = Recipe.of("vae", "scenes", options)
    run.train(recipe, tmp_path, dataset=data, device="cpu")
    assert all("held_out.loss" not in row for row in read_log(tmp_path))
    with pytest.raises(LimnerError, match="a data set in memory has no split"):
        Validation({}, TrainOptions(validation=4), build("vae", data.spec, channels=[4]))
