"""Draw held-out emoji of 32 pixels, enlarged 4 times with the nearest pixel, the bicubic filter and
the bundled upscaler, above the true pictures.

    python docs/figures/upscaling.py
"""

import torch
from labelled import PICTURES

from limner import load
from limner.contract.image import from_uint8, to_uint8
from limner.contract.upscaling import Upscales, resize
from limner.data import open_data
from limner.data.png import grid, save_png

N = 8


def main() -> None:
    model = load("upscaler")
    assert isinstance(model, Upscales)
    data = open_data("emoji", split="held-out-concept", style="3d", size=128, label="none")
    true = data.pixels(torch.arange(N))
    small = from_uint8(to_uint8(resize(from_uint8(true), 32, 32)))
    nearest = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    rows = [nearest, resize(small, 128, 128), model.upscale(small, 4)]
    sheet = torch.cat([*map(to_uint8, rows), true])
    save_png(grid(sheet, N, scale=1, gap=2), PICTURES / "upscaling.png", {})


if __name__ == "__main__":
    main()
