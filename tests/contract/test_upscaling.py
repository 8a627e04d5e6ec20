"""Pictures are enlarged tile by tile, and the borders of the tiles are not visible."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec, to_uint8
from limner.contract.noise import Noise
from limner.contract.upscaling import Tiles, Upscales, resize, tile_starts, tile_weights


class Local(Upscales):
    """A random nonlinear network that sees two pixels of the small picture far."""

    margin = 2

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.conv_in = nn.Conv2d(3, 8, 3, padding=1)
            self.conv_out = nn.Conv2d(8, 3 * self.factor**2, 3, padding=1)

    def turns(self, batch, step, noise):
        raise NotImplementedError

    def enlargement(self, x, c, noise, **options):
        y = F.pixel_shuffle(self.conv_out(self.conv_in(x).tanh()), self.factor)
        return (y + F.interpolate(x, scale_factor=self.factor)) / 2


def model(factor: int = 2, side: int = 12) -> Local:
    hint = ImageSpec(3, side, side)
    return Local(ImageSpec(3, factor * side, factor * side, hint=hint))


def pictures(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    x = Noise.sampling(0, n).uniform(channels, height, width) * 2 - 1
    return resize(resize(x, height // 3 + 1, width // 3 + 1), height, width)


@pytest.mark.parametrize(
    ("length", "tile", "margin"), [(5, 8, 1), (8, 8, 1), (9, 9, 2), (10, 9, 2), (97, 17, 4)]
)
def test_tiles_cover_a_side_and_their_weights_add_up_where_they_overlap(length, tile, margin):
    starts = tile_starts(length, tile, margin)
    assert starts[0] == 0 and starts == sorted(set(starts))
    assert length <= tile or starts[-1] + tile == length
    for a, b in pairwise(starts):
        assert a + tile - b > 2 * margin, "the overlap is larger than both margins"
    total = torch.zeros(3 * max(length, tile))
    for start, weight in zip(starts, tile_weights(starts, tile, margin, 3)):
        total[3 * start : 3 * (start + tile)] += weight
    assert bool((total > 1e-3).all())
    if length > tile:  # next to an inner border, only the other tile counts
        assert float(tile_weights(starts, tile, margin, 3)[0][-3 * margin :].max()) == 0
    if len(starts) == 2:
        torch.testing.assert_close(total, torch.ones_like(total))


def test_joined_tiles_are_the_picture():
    x = pictures(2, 3, 37, 50)
    tiles = Tiles(37, 50, (12, 16), 2, 1)
    assert len(tiles) > 9
    torch.testing.assert_close(tiles.join(tiles.cut(x)), x)


@pytest.mark.parametrize("size", [(12, 12), (30, 41), (13, 70)])
def test_tiles_of_a_local_model_equal_the_whole(size):
    upscaler = model()
    x = pictures(2, 3, *size)
    tiled = upscaler.upscale(x)
    with torch.no_grad():
        whole = upscaler.enlargement(x, Condition(), Noise.sampling(0, 2)).clamp(-1, 1)
    assert int((to_uint8(tiled).int() - to_uint8(whole).int()).abs().max()) <= 1


def test_a_picture_smaller_than_a_tile_equals_the_whole_away_from_its_border():
    upscaler = model()
    x = pictures(1, 3, 7, 9)
    small = upscaler.upscale(x)
    assert small.shape == (1, 3, 14, 18)
    with torch.no_grad():
        whole = upscaler.enlargement(x, Condition(), Noise.sampling(0, 1)).clamp(-1, 1)
    torch.testing.assert_close(small[..., :10, :14], whole[..., :10, :14])


def test_two_stages_of_factor_2_equal_factor_4():
    upscaler = model()
    x = pictures(2, 3, 9, 15)
    torch.testing.assert_close(upscaler.upscale(x, 4), upscaler.upscale(upscaler.upscale(x, 2), 2))
    half = resize(upscaler.upscale(x, 2), 14, 23)
    torch.testing.assert_close(upscaler.upscale(x, 3), resize(upscaler.upscale(half, 2), 27, 45))
    assert torch.equal(upscaler.upscale(x, 1), x)


def test_no_stage_computes_more_than_is_needed(monkeypatch):
    """Before a further stage, the picture is shrunk to what this stage needs for the final size.
    The input itself is never shrunk.
    """
    upscaler, sizes = model(4), list[tuple[int, ...]]()
    original = upscaler.stage
    monkeypatch.setattr(
        upscaler, "stage", lambda x, *rest: sizes.append(x.shape[-2:]) or original(x, *rest)
    )
    for factor in (5, 16, 2):
        upscaler.upscale(pictures(1, 3, 8, 8), factor)
    assert sizes == [(8, 8), (10, 10), (8, 8), (32, 32), (8, 8)]


class Plain(Local):
    """Each tile has one grey, which depends on the random stream and the label of its picture."""

    def enlargement(self, x, c, noise, **options):
        grey = noise.uniform(1, 1, 1) / 2 + c.label.view(-1, 1, 1, 1) / 4
        return grey.expand(-1, 3, *(self.factor * side for side in x.shape[2:]))


@pytest.mark.parametrize("at_once", [1, 4, 64])
def test_tiles_have_the_noise_and_label_of_their_picture(at_once):
    upscaler = Plain(ImageSpec(3, 24, 24, labels=("a", "b"), hint=ImageSpec(3, 12, 12)))
    upscaler.at_once = at_once
    x = upscaler.upscale(pictures(3, 3, 12, 30), c=Condition(label=[1, 0, 1]), seed=[5, 6, 5])
    expected = Noise.sampling([5, 6, 5], 3).uniform() / 2 + torch.tensor([0.25, 0, 0.25])
    torch.testing.assert_close(x, expected.view(-1, 1, 1, 1).expand(-1, 3, 24, 60))


def test_each_picture_is_the_same_alone():
    upscaler = model()
    x = pictures(3, 3, 20, 30)
    torch.testing.assert_close(upscaler.upscale(x)[1:2], upscaler.upscale(x[1:2], seed=1))


def test_alpha_is_enlarged_separately_and_grey_stays_grey():
    upscaler = model()
    x, alpha = pictures(1, 3, 14, 14), pictures(1, 1, 14, 14)
    result = upscaler.upscale(torch.cat([x, alpha], 1))
    torch.testing.assert_close(result[:, 3:], resize(alpha, 28, 28))
    torch.testing.assert_close(result[:, :3], upscaler.upscale(x))
    assert upscaler.upscale(x[:, :1]).shape == (1, 1, 28, 28)
    assert upscaler.upscale(torch.cat([x[:, :1], alpha], 1)).shape == (1, 2, 28, 28)


def test_colours_under_transparent_pixels_have_no_effect():
    """A red disc stays red to its edge, whatever colour the transparent pixels have."""
    upscaler = model()
    grid = torch.arange(24) - 11.5
    alpha = torch.where(grid[:, None] ** 2 + grid**2 < 60, 1.0, -1.0)[None, None]
    disc = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 24, 24)
    hidden = [torch.where(alpha > 0, disc, torch.full_like(disc, v)) for v in (-1.0, 1.0)]
    black, white = (upscaler.upscale(torch.cat([x, alpha], 1)) for x in hidden)
    torch.testing.assert_close(black, white)
    torch.testing.assert_close(black[:, :3], upscaler.upscale(disc))


def test_invalid_arguments_are_refused_in_one_line():
    upscaler = model()
    for factor, size, message in (
        (0.5, 8, "factor=0.5"),
        (65, 8, "factor=65"),
        (64, 200, "smaller"),
    ):
        with pytest.raises(LimnerError, match=message):
            upscaler.upscale(torch.zeros(1, 3, size, size), factor)
    with pytest.raises(LimnerError, match="factor=nan"):
        upscaler.upscale(torch.zeros(1, 3, 8, 8), float("nan"))
    with pytest.raises(LimnerError, match="not 1 x 3 x 0 x 8; "):
        upscaler.upscale(torch.zeros(1, 3, 0, 8), 2)
    with pytest.raises(LimnerError, match="option"):
        upscaler.upscale(torch.zeros(1, 3, 8, 8), steps=3)
    with pytest.raises(LimnerError, match="without labels"):
        upscaler.upscale(torch.zeros(1, 3, 8, 8), 2, Condition(label=torch.tensor([0])))
