"""Grounds of scenes: plain colours near their names, and settings with a sky above a ground."""

import numpy as np
import pytest

from limner.data import open_data
from limner.data.grounds import GROUNDS, PLAIN, ground
from limner.data.recolouring import to_oklab
from limner.data.scenes import draw_scene

SIDE, VARIANTS = 48, range(24)


def pixels(name: str, variant: int) -> np.ndarray:
    return np.asarray(ground(name, variant, SIDE))


def lightness_and_hue(rgb: np.ndarray) -> tuple[float, float]:
    light, a, b = to_oklab(rgb)
    return float(light), float(np.rad2deg(np.arctan2(b, a)) % 360)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_ground_has_one_colour_near_its_name(name: str):
    colours = set()
    for variant in VARIANTS:
        (colour,) = np.unique(pixels(name, variant).reshape(-1, 3), axis=0)
        colours.add(tuple(colour.tolist()))
    if name == "white":
        assert colours == {(255, 255, 255)}
        return
    assert len(colours) > 12
    lights, hues = zip(*(lightness_and_hue(np.array(c, np.uint8)) for c in colours))
    assert 0.05 < max(lights) - min(lights) < 0.105
    if name not in ("black", "gray"):
        assert (max(hues) - min(hues)) % 360 < 16
    phrase = {"orange": "on an orange background"}.get(name, f"on a {name} background")
    assert phrase in GROUNDS[name].words


def test_lines_are_drawn_only_on_light_grounds():
    """Black lines are visible on them."""
    for name, properties in GROUNDS.items():
        lights = [to_oklab(pixels(name, variant))[..., 0].mean() for variant in VARIANTS]
        assert min(lights) > 0.62 if properties.light else max(lights) < 0.68, name


HORIZONS = {"grass": (0.32, 0.68), "sea": (0.19, 0.46), "snow": (0.37, 0.68), "beach": (0.38, 0.67)}


@pytest.mark.parametrize("name", HORIZONS)
def test_a_setting_has_a_sky_above_a_ground(name: str):
    low, high = (round(SIDE * share) for share in HORIZONS[name])
    heights = set()
    for variant in VARIANTS:
        picture = pixels(name, variant)
        top, bottom = (np.median(picture[row], axis=0).astype(np.uint8) for row in (0, -1))
        (sky, sky_hue), (floor, hue) = lightness_and_hue(top), lightness_and_hue(bottom)
        assert 200 < sky_hue < 260
        assert {
            "grass": 120 < hue < 150 and floor < sky,
            "sea": 225 < hue < 255 and floor < sky - 0.1,
            "snow": floor > sky + 0.05,
            "beach": 70 < hue < 100,
        }[name], variant
        distance = np.abs(picture.astype(int) - top).sum(-1)
        if name != "snow":  # flakes are everywhere
            assert (distance[:low] == 0).all(), "nothing is in the sky"
        height = int((np.median(distance, axis=1) == 0).sum())
        assert low - 1 <= height <= high + 1
        heights.add(height)
    assert len(heights) > 5


def test_the_night_is_dark_lighter_below_and_has_stars():
    for variant in VARIANTS:
        picture = pixels("night sky", variant)
        light = np.median(to_oklab(picture)[..., 0], axis=1)
        assert light[0] == pytest.approx(0.22, abs=0.02)
        assert light[-1] == pytest.approx(0.36, abs=0.02)
        assert 20 < (picture.max(-1) > 100).sum() < 0.1 * SIDE**2


def test_snow_and_sea_have_flakes_and_waves():
    for name in ("snow", "sea"):
        floors = [pixels(name, variant)[SIDE // 2 + 12 :].reshape(-1, 3) for variant in VARIANTS]
        assert sum(len(np.unique(floor, axis=0)) > 1 for floor in floors) > 12, name


def test_variants_repeat_and_drawing_does_not_change_them():
    data = open_data("scenes", size=SIDE)
    for name in ("grass", "red"):
        assert (pixels(name, 3) == pixels(name, 27)).all()
    scene = data.scene(0)
    before = pixels(scene.ground, scene.shade).copy()
    drawn = np.asarray(draw_scene(scene, SIDE))
    assert (drawn != before).any()
    assert (pixels(scene.ground, scene.shade) == before).all()
