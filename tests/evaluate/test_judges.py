"""Judges: augmentations with exact results, the contrastive loss of CLIP, and custom judges."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as V
from torch import Tensor

from limner import build
from limner.contract.checkpoint import digest_tensors
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec, from_uint8
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.text import Tokenizer, text_spec
from limner.evaluate.extractors.judge import JudgeExtractor
from limner.evaluate.judges.augmentation import move_pictures, spoil_pictures
from limner.evaluate.judges.dual_encoder import DualEncoder
from limner.evaluate.judges.judge import Judge

EMOJI = ImageSpec(3, 16, 16, labels=("faces", "food", "flags"), text=text_spec())
SAID = ["a dog", "a red apple", "a blue heart", "the sun", "a house", "an old car"]


class Drawn(Noise):
    """Noise with given uniform numbers and normal numbers of 1."""

    def __init__(self, *rows: tuple[float, ...]) -> None:
        super().__init__(torch.arange(len(rows)))
        self.rows = torch.tensor(rows)

    def uniform(self, *shape: int, **_) -> Tensor:
        return self.rows[:, : shape[0]]

    def normal(self, *shape: int, **_) -> Tensor:
        return torch.ones(len(self.rows), *shape)


def pictures(n: int, side: int = 16) -> Tensor:
    return 2 * torch.rand(n, 3, side, side) - 1


def test_a_picture_that_is_not_moved_is_unchanged():
    x = pictures(2)
    same = move_pictures(x, Noise.keyed(0, 0, range(2)), shift=0, stretch=1, turn=0)
    torch.testing.assert_close(same, x, rtol=0, atol=1e-5)


def test_shifts_are_in_whole_pixels_and_edges_are_extended():
    x = pictures(1)
    shifted = move_pictures(x, Drawn((0.5, 0.5, 1.0, 0.0)), shift=3, stretch=1, turn=0)
    right, down = [*range(3, 16), 15, 15, 15], [0, 0, 0, *range(13)]
    torch.testing.assert_close(shifted, x[:, :, down][..., right], rtol=0, atol=1e-5)


def test_rotation_and_scaling_equal_torchvisions():
    x = torch.zeros(1, 3, 17, 17)
    x[..., 4:13, 6:11] = pictures(1, 9)[..., :5]
    quarter = move_pictures(x, Drawn((1.0, 0.5, 0.5, 0.5)), shift=3, stretch=1, turn=90)
    torch.testing.assert_close(quarter, x.rot90(1, (2, 3)), rtol=0, atol=1e-5)
    bilinear = V.InterpolationMode.BILINEAR
    rotated = move_pictures(x, Drawn((1.0, 0.5, 0.5, 0.5)), shift=3, stretch=1, turn=20)
    torch.testing.assert_close(rotated, V.rotate(x, 20, bilinear), rtol=0, atol=1e-4)
    larger = move_pictures(x, Drawn((0.5, 0.0, 0.5, 0.5)), shift=3, stretch=1.3, turn=0)
    expected = V.affine(x, 0, [0, 0], 1.3, [0], bilinear)
    torch.testing.assert_close(larger, expected, rtol=0, atol=1e-4)


def test_blur_equals_torchvisions_and_noise_has_its_deviation():
    x = pictures(2)
    noisy = spoil_pictures(x, Drawn((1.0, 0.0), (0.25, 0.0)), blur=1, grain=0.2)
    for i, deviation in enumerate((1.0, 0.25)):
        expected = V.gaussian_blur(x[i], [7, 7], [deviation, deviation])
        inner = (slice(None), slice(3, -3), slice(3, -3))  # edges are extended differently
        torch.testing.assert_close(noisy[i][inner], expected[inner], rtol=0, atol=1e-5)
    grey = spoil_pictures(torch.zeros(1, 3, 16, 16), Drawn((0.0, 0.5)), blur=1, grain=0.2)
    assert grey.unique().tolist() == pytest.approx([0.1])
    torch.testing.assert_close(spoil_pictures(x, Drawn((1.0, 1.0), (1.0, 1.0)), blur=0, grain=0), x)
    assert spoil_pictures(torch.ones(1, 3, 8, 8), Drawn((0.0, 1.0)), blur=1, grain=0.2).max() == 1


def test_augmentations_use_the_pictures_own_streams():
    x = pictures(4)
    changes: list[Callable[[Tensor, Noise], Tensor]] = [
        lambda x, noise: move_pictures(x, noise, shift=3, stretch=1.2, turn=10),
        lambda x, noise: spoil_pictures(x, noise, blur=1, grain=0.2),
    ]
    for change in changes:
        batch = change(x, Noise.keyed(0, 5, range(4)))
        last = change(x[3:], Noise.keyed(0, 5, range(3, 4)))
        torch.testing.assert_close(batch[3:], last, rtol=0, atol=1e-6)
        assert not torch.allclose(batch, x)


def judge() -> DualEncoder:
    model = build("dual-encoder", EMOJI, channels=(8, 16), vector=8, words=8)
    assert isinstance(model, DualEncoder)
    for name in model.spoiling:
        model.spoiling[name] = 0.0
    model.moving.update(shift=0.0, stretch=1.0, turn=0.0)
    return model.eval()


def logged(model: DualEncoder, x: Tensor, captions: list[str]) -> dict[str, Tensor]:
    text = Tokenizer(text_spec()).encode(captions)
    batch = Batch(x, Condition(label=torch.arange(len(x)) % 3, text=text))
    (turn,) = model.turns(batch, 0, Noise.keyed(0, 0, range(len(x))))
    return {"loss": turn.loss, **turn.logs}


def test_the_loss_is_that_of_clip_plus_cross_entropy():
    """Figure 3 of the paper: the mean of the cross-entropies along both axes."""
    model, x = judge(), pictures(6)
    logs = logged(model, x, SAID)
    features = model.features(x)
    p = model.cosines(features, Tokenizer(text_spec()).encode(SAID)).div(0.07).exp()
    positives = p.diagonal()
    expected = -((positives / p.sum(1)).log().mean() + (positives / p.sum(0)).log().mean()) / 2
    torch.testing.assert_close(logs["contrastive"], expected)
    logits = model.logits(features)
    assert logits is not None
    classes = -logits.softmax(1)[torch.arange(6), torch.arange(6) % 3].log().mean()
    torch.testing.assert_close(logs["loss"], expected + classes)


def test_a_judge_that_distinguishes_nothing_has_a_loss_of_log_n():
    model = judge()
    with torch.no_grad():
        model.project.weight.zero_()
    assert float(logged(model, pictures(6), SAID)["contrastive"]) == pytest.approx(math.log(6))


def test_equal_captions_are_all_correct():
    """Between two equal captions a judge can only guess, which costs log 2; both are correct."""
    model, x = judge(), pictures(3)
    single = logged(model, x, SAID[:3])
    double = logged(model, x.repeat(2, 1, 1, 1), SAID[:3] * 2)
    torch.testing.assert_close(double["contrastive"], single["contrastive"] + math.log(2))
    torch.testing.assert_close(double["found"], single["found"])
    assert float(logged(model, pictures(6), ["a dog"] * 6)["found"]) == 1


def test_cosines_are_precise_under_autocast():
    model, x = judge(), pictures(6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cosines = model.cosines(model.features(x), Tokenizer(text_spec()).encode(SAID))
    assert cosines.dtype == torch.float32
    assert cosines.to(torch.bfloat16).float().ne(cosines).any()


@pytest.mark.parametrize(
    ("name", "spec", "said"),
    [
        ("lenet", ImageSpec(1, 28, 28), "this model learns classes, and the data have none"),
        ("lenet", ImageSpec(1, 3, 28, labels=("a", "b")), "of at least 4 x 4 pixels"),
        ("dual-encoder", ImageSpec(3, 32, 32), "this model learns captions, and the data have"),
    ],
)
def test_unsuitable_data_are_refused(name: str, spec: ImageSpec, said: str):
    with pytest.raises(LimnerError, match=said):
        build(name, spec)


class Sees(Judge):
    """A user's own judge."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(()))

    def features(self, x: Tensor) -> Tensor:
        return self.w * x.flatten(1)[:, :4]

    def logits(self, features: Tensor) -> None:
        return None

    def turns(self, batch: Batch, step: int, noise: Noise):
        yield Turn(self.w.square())


class SeesOther(Sees):
    """The same weights, but other features."""

    def features(self, x: Tensor) -> Tensor:
        return self.w * x.flatten(1)[:, -4:]


class SeesOne(Sees):
    """A judge that does not return a row of features per picture."""

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, 0]


class SeesTwo(Sees):
    """A judge that returns two rows for any number of pictures."""

    def features(self, x: Tensor) -> Tensor:
        return torch.zeros(2, 4)


def test_fingerprints_depend_on_the_judges_class():
    first, other = (JudgeExtractor(cls(EMOJI), "mine") for cls in (Sees, SeesOther))
    assert first.fingerprint == JudgeExtractor(Sees(EMOJI), "mine").fingerprint
    assert first.fingerprint != other.fingerprint


def test_fingerprints_of_limners_judges_do_not_depend_on_its_code():
    """Otherwise numbers of two versions of limner could not be compared."""
    model = judge()
    expected = digest_tensors(model.state_dict(), "16 x 16, bicubic, float32")
    assert JudgeExtractor(model, "mine").fingerprint == expected


def test_pictures_are_resized_to_the_height_and_width_of_the_judge():
    extract = JudgeExtractor(Sees(ImageSpec(3, 8, 24)), "mine")
    images = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    resized = F.interpolate(from_uint8(images), (8, 24), mode="bicubic", antialias=True)
    torch.testing.assert_close(extract(images).features, resized[:, 0, 0, :4])


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_judge_that_does_not_return_a_row_per_picture_is_refused():
    with pytest.raises(LimnerError, match=r"features of SeesOne returns shape \(1,\) for 1 pict"):
        JudgeExtractor(SeesOne(EMOJI), "mine")
    with pytest.raises(LimnerError, match=r"SeesTwo returns shape \(2, 4\) for 1 pictures; return"):
        JudgeExtractor(SeesTwo(EMOJI), "mine")


def test_a_judge_in_training_mode_is_used_in_evaluation_mode():
    assert not JudgeExtractor(Sees(EMOJI).train(), "mine").judge.training
