"""Curves of a run's log."""

import math

from PIL import Image

from limner.training.log_curves import draw_curves


def test_curves_are_drawn_for_any_log(tmp_path):
    rows = [
        {
            "step": step,
            "images": step * 8,
            "critic.loss": -math.sin(step / 30),
            "generator.loss": 100.0 / (step + 1),
            "critic.norm": 1.0 if step % 50 else None,
            "critic.lr": 1e-3,
            "images_per_second": 300 + step % 7,
            "real_score": step / 100,
        }
        for step in range(200)
    ]
    for count in (200, 1):
        path = tmp_path / f"{count}.png"
        draw_curves(rows[:count], path, "toy on folder:my $x_$ 絵")  # no formula, no such letter
        with Image.open(path) as image:
            assert image.width > 800
