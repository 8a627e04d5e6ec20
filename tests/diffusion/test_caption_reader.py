"""The caption reader: its losses in closed form, and what it has learned after short training."""

import math

import pytest
import torch

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.layout import COLOURS, NO_OBJECT, Objects, layout_spec
from limner.contract.noise import Noise
from limner.contract.text import Tokenizer, text_spec
from limner.data import open_data
from limner.diffusion.caption_reader import CaptionReader, sides
from limner.training.loop import Loop
from limner.training.options import TrainOptions

KINDS = ("dog", "cat", "cup")
SPEC = ImageSpec(3, 8, 8, text=text_spec(8), hint=layout_spec(KINDS, 4))
assert SPEC.text is not None
TWO = Objects(
    torch.tensor([[0, 1, NO_OBJECT, NO_OBJECT]]),
    torch.tensor([[3, NO_OBJECT, NO_OBJECT, NO_OBJECT]]),
    torch.tensor([[[0.0, 0, 0.2, 0.2], [0.5, 0.5, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]]),
)
TEXT = Tokenizer(SPEC.text).encode(["a green dog and a cat"])


@pytest.fixture
def reader() -> CaptionReader:
    return CaptionReader(SPEC, words=16, layers=1, cells=4)


def test_the_loss_of_a_uniform_guess_is_the_log_of_the_choices(
    reader: CaptionReader,
) -> None:
    for head in (*reader.of_kind.values(), reader.of_colour, reader.of_text):
        for p in head.parameters():
            torch.nn.init.zeros_(p)
    choices = {
        "colour": 1 + len(COLOURS),
        "column": 4,
        "row": 4,
        "count": 4,
        "kind": 3,
        "number": 5,
        "across": 3,
        "down": 3,
    }
    losses = reader.losses(TEXT, TWO)
    assert {name: float(value.detach()) for name, value in losses.items()} == pytest.approx(
        {name: math.log(n) for name, n in choices.items()}, rel=1e-6
    )


def test_the_loss_of_a_certain_correct_guess_is_0(reader: CaptionReader) -> None:
    """Both objects are the only ones of their kind; the dog is in the first cell."""
    with torch.no_grad():
        for p in reader.of_kind["count"].parameters():
            p.zero_()
        reader.of_kind["count"].bias[0] = 50.0  # pyright: ignore
        for name, truth in (("colour", 1 + 3), ("column", 0), ("row", 0)):
            for p in reader.of_kind[name].parameters():
                p.zero_()
            reader.of_kind[name].bias[truth] = 50.0  # pyright: ignore
    losses = {name: float(value.detach()) for name, value in reader.losses(TEXT, TWO).items()}
    assert losses["count"] == pytest.approx(0, abs=1e-6)
    for name in ("colour", "column", "row"):  # 0 nats for the dog, 50 for the cat
        assert losses[name] == pytest.approx(25, abs=1e-4)


def test_the_kind_of_a_colour_is_learnt_from_coloured_objects_alone(reader: CaptionReader) -> None:
    """The only coloured object is a dog, the first kind."""
    with torch.no_grad():
        for p in reader.of_colour.parameters():
            p.zero_()
        reader.of_colour.bias[0] = 50.0
    assert reader.losses(TEXT, TWO)["kind"].item() == pytest.approx(0, abs=1e-6)


def test_sides_are_relative_to_all_other_objects() -> None:
    """The first object is left of and above both others, the second is right of both, and the
    third is below both; the fourth place is empty. A single object has no side."""
    centre = torch.tensor([[[0.1, 0.2], [0.9, 0.4], [0.5, 0.8], [0.0, 0.0]]])
    present = torch.tensor([[True, True, True, False]])
    assert sides(centre, present)[0, :3].tolist() == [[1, 1], [2, 0], [0, 2]]
    assert sides(centre, torch.tensor([[True, False, False, False]]))[0, 0].tolist() == [0, 0]


def test_the_order_of_objects_and_empty_places_change_no_loss(reader: CaptionReader) -> None:
    flipped = Objects(*(part.flip(1) for part in TWO))
    fewer = Objects(*(part[:, :2] for part in TWO))
    for other in (flipped, fewer):
        for name, value in reader.losses(TEXT, other).items():
            torch.testing.assert_close(value, reader.losses(TEXT, TWO)[name])


def test_a_picture_without_objects_has_only_a_loss_of_their_number(reader: CaptionReader) -> None:
    empty = Objects(
        torch.full((1, 4), NO_OBJECT), torch.full((1, 4), NO_OBJECT), torch.zeros(1, 4, 4)
    )
    losses = {name: float(value.detach()) for name, value in reader.losses(TEXT, empty).items()}
    assert losses.pop("number") > 0
    assert set(losses.values()) == {0}


def test_the_predicted_sides_are_the_most_likely_across_and_down(reader: CaptionReader) -> None:
    for name, side in (("across", 2), ("down", 1)):
        head = reader.of_kind[name]
        assert isinstance(head, torch.nn.Linear)
        torch.nn.init.zeros_(head.weight)
        head.bias.data = torch.eye(3)[side]
    predicted = reader.sides(TEXT, torch.zeros(len(TEXT), 5, dtype=torch.long) + NO_OBJECT)
    assert predicted.tolist() == [[[2, 1]] * 5] * len(TEXT)


def test_other_data_are_refused_in_one_line() -> None:
    with pytest.raises(LimnerError, match=r"scenes data\.hint=objects"):
        CaptionReader(ImageSpec(3, 8, 8, text=text_spec(8)))
    with pytest.raises(LimnerError, match=r"scenes data\.hint=objects"):
        CaptionReader(ImageSpec(3, 8, 8, hint=layout_spec(KINDS, 4)))


def test_short_training_binds_colours_to_objects() -> None:
    """Two objects have two colours; a bag of words can only reach a loss of log 2."""
    data = open_data(
        "scenes", size=16, vocabulary="dog,car,apple,chair", skills="attribution", hint="objects"
    )
    model = CaptionReader(data.spec, words=64, layers=1)
    options = TrainOptions(steps=450, batch=64, lr=3e-3, betas=(0.9, 0.98), ema=0.9)
    numbers = iter(range(10**6))

    def batches(first: int, n: int) -> Batch:
        del first
        rows = torch.tensor([next(numbers) for _ in range(n)])
        text = Tokenizer(data.spec.text).encode(data.captions(rows, Noise.sampling(0, n)))  # pyright: ignore
        return Batch(torch.zeros(n, 3, 16, 16), Condition(text=text, image=data.truth(rows)))  # pyright: ignore

    loop = Loop(model, batches, options)
    for _ in range(options.steps):
        logs = loop.advance()
    assert logs["colour"] < 0.25 < math.log(2)
