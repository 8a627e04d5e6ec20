"""How much grain does cleaning remove from the pictures of `emoji`, and what does it cost?

    python benchmarks/cleaning.py -n 200

The model paints captions of training pictures, which it more or less reproduces, so each picture
is compared with its true one: PSNR, and the distance (1 - cosine) of lite0's features. Grain is
that of `variety.py`: the total variation on flat ground, in levels of 255. +- is one standard
error.
"""

import time
from typing import Any

import torch
import torch.nn.functional as F
from timing import count, options_parser, show
from variety import grain, mean_text

from limner.commands.request import SamplingRequest, open_model
from limner.contract.image import from_uint8, to_uint8
from limner.contract.noise import Noise
from limner.contract.text import text_condition
from limner.data import open_data
from limner.evaluate.extractors.choose import open_extractor

BEFORE = {"upsampler_steps": 5, "level": 0.1, "clean": 0}
ROWS: dict[str, dict[str, Any]] = {
    "5 steps, level 0.1": BEFORE,
    "5 steps, level 0": BEFORE | {"level": 0.0},
    "5 steps, level 0.1, 3 passes": BEFORE | {"clean": 3},
    "2 steps, level 0": BEFORE | {"level": 0.0, "upsampler_steps": 2},
    "2 steps, level 0, 1 pass": {"clean": 1},
    "2 steps, level 0, 3 passes": {},
}


@torch.no_grad()
def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("-n", type=count, default=200, help="number of pictures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = open_data("emoji", size=64, split="train", style="3d", text=True, label="none")
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[: args.n]
    real, noise = data.pixels(rows), Noise.sampling(0, len(rows))
    captions = data.captions(rows, noise)
    assert captions is not None
    extract = open_extractor("lite0", data.spec)
    true = F.normalize(extract(real).features.double(), dim=1)
    table = [("real", "", "", f"{grain(from_uint8(real)):.2f}", "")]
    for name, sampler in ROWS.items():
        model, options = open_model(SamplingRequest("emoji", sampler=sampler))
        start = time.process_time()
        c = text_condition(model.spec, captions, lambda line: None)
        x = to_uint8(model.sample(len(rows), c, seed=[*range(len(rows))], **options))
        seconds = (time.process_time() - start) / len(rows)
        error = (x.double() - real.double()).square().mean((1, 2, 3))
        distance = 1 - (F.normalize(extract(x).features.double(), dim=1) * true).sum(1)
        psnr = 10 * torch.log10(255**2 / error)
        values = mean_text(psnr.tolist()), mean_text(distance.tolist())
        table.append((name, *values, f"{grain(from_uint8(x)):.2f}", f"{seconds:.3f}"))
    title = f"emoji, n = {len(rows)} training captions, one thread"
    show(title, ("", "PSNR", "distance", "grain", "s/picture"), table)


if __name__ == "__main__":
    main()
