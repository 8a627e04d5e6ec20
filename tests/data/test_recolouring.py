"""The dominant colour of a picture, and recolouring, on pictures of a few plain colours."""

import numpy as np
import pytest

from limner.data.recolouring import (
    COLOUR_VALUES,
    Colour,
    dominant_colour,
    from_oklab,
    nearest_name,
    recolour,
    rgb,
    to_oklab,
)

GREY = Colour(0.3, 0.0, 0.0)
WAS, BLUE = Colour(0.6, 0.1, 30), Colour(0.6, 0.08, 250)


def picture(*parts: tuple[int, Colour], alpha: int = 255) -> np.ndarray:
    """Return a picture with so many rows of each colour."""
    rows = [np.tile(np.array([*rgb(colour), alpha], np.uint8), (n, 10, 1)) for n, colour in parts]
    return np.concatenate(rows)


def lch(pixel: np.ndarray) -> tuple[float, float, float]:
    """Return lightness, chroma and hue of a pixel."""
    light, a, b = map(float, to_oklab(pixel[:3]))
    return light, float(np.hypot(a, b)), float(np.degrees(np.arctan2(b, a)) % 360)


def changed(pixel: Colour, was: Colour, colour: Colour) -> tuple[float, float, float]:
    """Return lightness, chroma and hue of a pixel of a picture that is recoloured."""
    return lch(recolour(picture((1, pixel)), was, colour)[0, 0])


@pytest.mark.parametrize(
    ("pixel", "lab"),
    [
        ((255, 255, 255), (1.0, 0.0, 0.0)),
        ((255, 0, 0), (0.62796, 0.22486, 0.12585)),
        ((0, 255, 0), (0.86644, -0.23389, 0.17950)),
        ((0, 0, 255), (0.45201, -0.03246, -0.31153)),
        ((3, 3, 3), ((3 / 255 / 12.92) ** (1 / 3), 0.0, 0.0)),
    ],
)
def test_oklab_has_its_published_values(pixel, lab):
    np.testing.assert_allclose(to_oklab(np.array(pixel, np.uint8)), lab, atol=3e-4)


def test_every_pixel_returns_from_oklab():
    pixels = np.random.default_rng(0).integers(0, 256, (4000, 3), np.uint8)
    pixels[:256] = np.arange(256)[:, None]
    assert (from_oklab(to_oklab(pixels)) == pixels).all()


def test_a_name_applies_only_near_its_colour():
    red = COLOUR_VALUES["red"]
    assert nearest_name(red._replace(lightness=red.lightness + 0.15)) == "red"
    assert nearest_name(red._replace(lightness=red.lightness + 0.19)) is None
    assert nearest_name(Colour(0.62, 0.07, 180)) == "gray"
    assert nearest_name(Colour(0.62, 0.105, 180)) is None


@pytest.mark.parametrize("hue", range(0, 360, 15))
def test_the_dominant_colour_of_one_colour_is_that_colour(hue: int):
    colour = dominant_colour(picture((10, Colour(0.7, 0.1, hue))))
    assert colour is not None
    assert (colour.hue - hue + 180) % 360 - 180 == pytest.approx(0, abs=1)
    assert colour[:2] == pytest.approx((0.7, 0.1), abs=0.004)


RED, GREEN = Colour(0.6, 0.2, 27), Colour(0.7, 0.05, 143)
WEAK, FAINT = Colour(0.7, 0.08, 27), Colour(0.8, 0.045, 27)


@pytest.mark.parametrize(
    ("parts", "hue"),
    [
        (((32, RED), (68, GREY)), 27),  # a dominant hue and grey
        (((28, RED), (72, GREY)), None),  # few pixels have a hue, and the rest is dark
        (((25, RED), (12, GREEN), (63, GREY)), 27),
        (((20, RED), (12, GREEN), (68, GREY)), None),  # less than a fifth or so
        (((60, WEAK), (40, GREY)), 27),  # a weak hue on more than half
        (((40, WEAK), (60, GREY)), None),
        (((40, RED), (50, Colour(0.7, 0.05, 258)), (10, GREY)), 27),  # vivid, and not the largest
        (((60, WAS), (25, WAS._replace(hue=80)), (15, GREY)), 30),  # another hue does not count
        (((50, WAS), (30, WAS._replace(hue=60)), (15, WAS._replace(hue=75)), (5, GREY)), 47),
        (((30, RED), (35, Colour(0.7, 0.15, 143)), (35, GREY)), None),  # two hues
    ],
)
def test_a_hue_is_dominant_if_it_is_vivid_and_large(parts, hue):
    colour = dominant_colour(picture(*parts))
    assert (colour and round(colour.hue)) == (hue and pytest.approx(hue, abs=1))


@pytest.mark.parametrize(
    ("parts", "light"),
    [
        (((10, Colour(0.8, 0.0, 0)),), 0.8),
        (((10, FAINT),), 0.8),
        (((10, Colour(0.5, 0.0, 0)),), None),  # too dark
        (((5, Colour(0.95, 0.0, 0)), (5, Colour(0.75, 0.0, 0))), 0.85),
        (((5, Colour(1.0, 0.0, 0)), (5, Colour(0.7, 0.0, 0))), None),  # uneven
    ],
)
def test_grey_is_dominant_if_it_is_light_and_even(parts, light):
    colour = dominant_colour(picture(*parts))
    assert colour == (light and (pytest.approx(light, abs=0.005), 0, 0))


def test_transparent_pixels_have_no_part_in_the_dominant_colour():
    clear = picture((10, COLOUR_VALUES["green"]), alpha=0)
    colour = dominant_colour(np.concatenate([picture((10, RED)), clear]))
    assert colour is not None and nearest_name(colour) == "red"


@pytest.mark.parametrize(
    ("pixel", "expected"),
    [
        (WAS, BLUE),
        (WAS._replace(lightness=0.7), (0.7, 0.08, 250)),  # shading is kept
        (WAS._replace(lightness=0.5), (0.5, 0.08, 250)),
        (WAS._replace(chroma=0.06), (0.6, 0.048, 250)),  # and so is the share of chroma,
        (WAS._replace(chroma=0.16), (0.6, 0.104, 250)),  # up to 1.3,
        (WAS._replace(hue=50), (0.6, 0.08, 258)),  # and two fifths of the turn,
        (WAS._replace(hue=10), (0.6, 0.08, 242)),
        (WAS._replace(hue=64.5), (0.6, 0.08, 262)),  # up to 30 degrees
        (WAS._replace(hue=87), (0.6, 0.1, 87)),  # another hue is unchanged
        (WAS._replace(chroma=0.015), (0.6, 0.015, 30)),  # and so is grey
    ],
)
def test_shading_and_variations_of_the_hue_are_kept(pixel: Colour, expected):
    light, chroma, hue = changed(pixel, WAS, BLUE)
    assert (light, chroma) == pytest.approx(expected[:2], abs=0.006)
    assert hue == pytest.approx(expected[2], abs=0.3 / expected[1])


@pytest.mark.parametrize(("name", "scale"), [("black", 0.6), ("white", 0.35), ("gray", 0.95)])
def test_shading_is_compressed_near_black_and_white(name: str, scale: float):
    lights = [changed(WAS._replace(lightness=x), WAS, COLOUR_VALUES[name])[0] for x in (0.55, 0.65)]
    assert lights[1] - lights[0] == pytest.approx(0.1 * scale, abs=0.008)
    assert sum(lights) / 2 == pytest.approx(COLOUR_VALUES[name].lightness, abs=0.006)


@pytest.mark.parametrize(
    ("pixel", "expected"),
    [
        (Colour(0.8, 0.0, 0), BLUE),
        (Colour(0.7, 0.0, 0), (0.5, 0.08, 250)),
        (Colour(0.3, 0.0, 0), (0.3, 0.0, None)),  # lines stay dark
        (Colour(0.8, 0.09, 30), (0.8, 0.09, 30)),  # and colours stay
    ],
)
def test_light_grey_takes_the_whole_colour(pixel: Colour, expected):
    light, chroma, hue = changed(pixel, Colour(0.8, 0.0, 0.0), BLUE)
    assert (light, chroma) == pytest.approx(expected[:2], abs=0.006)
    assert expected[2] is None or hue == pytest.approx(expected[2], abs=4)
