"""Whether the seeds of a painter of scenes differ as scenes do, and flat grounds are flat.

    python benchmarks/variety.py scenes

Spread is the mean distance, 1 - cosine of lite0's features, between 16 paintings of a caption, and
between 16 real scenes that happen to have the very same caption, which is of one thing. Grain is
the mean total variation of pixels, in levels of 255, where nothing stands on a ground of one
colour: in paintings, in real scenes, and in these after the model's autoencoder, below which it
cannot fall.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timing import show

from limner.contract.bundled import bundled
from limner.contract.checkpoint import load, model_file, read_header
from limner.contract.image import Images, from_uint8, to_uint8
from limner.contract.noise import Noise
from limner.contract.text import prompted
from limner.data.grounds import GROUNDS, PLAIN
from limner.data.scenes import ComposedScenes, Scenes
from limner.diffusion.latent_diffusion import LatentDiffusion
from limner.evaluate.extractors.choose import extractor
from limner.evaluate.extractors.extractor import Extractor

SEEDS = 16
_SEARCHED = 40_000  # scenes among which captions are looked for that recur
_NEAR = 0.1  # how far from the ground's colour it goes, of 2
_EDGE = 2  # pixels from what is not ground


def recurring(data: ComposedScenes, n: int) -> dict[str, list[int]]:
    """The first captions that enough scenes have, with the numbers of these."""
    found = defaultdict[str, list[int]](list)
    for first in range(0, _SEARCHED, 1000):
        rows = torch.arange(first, first + 1000)
        for row, said in zip(rows.tolist(), data.captions(rows, Noise.sampling(0, 1000))):
            found[said].append(row)
    enough = {said: rows[:SEEDS] for said, rows in found.items() if len(rows) >= SEEDS}
    return dict([*enough.items()][:n])


def spread(x: Images, see: Extractor) -> float:
    """The mean distance between different pictures."""
    features = F.normalize(see(to_uint8(x)).features.double(), dim=1)
    near = (features @ features.T).fill_diagonal_(0)
    return 1 - float(near.sum()) / (len(x) * (len(x) - 1))


def on_plain_ground(data: ComposedScenes, n: int) -> list[int]:
    """The numbers of the first scenes whose captions name a ground of one colour."""
    found, i = list[int](), 0
    while len(found) < n:
        scene = data.scene(i)
        said = scene and any(words in scene.caption for words in GROUNDS[scene.ground].words)
        if scene and said and scene.ground in PLAIN:
            found.append(i)
        i += 1
    return found


def grain(x: Images) -> float:
    """The mean difference of neighbours on flat ground, in levels of 255."""
    border = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], 2)
    ground = border.median(2).values[:, :, None, None]
    other = ((x - ground).abs().amax(1, keepdim=True) > _NEAR).float()
    flat = F.max_pool2d(other, 2 * _EDGE + 1, 1, _EDGE) == 0
    total, count = 0.0, 0
    for axis in (2, 3):
        first, second = (slice(None, -1), slice(1, None))
        here, there = (x.movedim(axis, 2)[:, :, part] for part in (first, second))
        mask = flat.movedim(axis, 2)
        both = (mask[:, :, first] & mask[:, :, second]).expand_as(here)
        total += float((here - there).abs()[both].sum())
        count += int(both.sum())
    return 127.5 * total / max(1, count)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run, a model file, or a bundled model")
    parser.add_argument("-n", type=int, default=12, help="captions, and scenes on plain ground / 4")
    parser.add_argument("--vocabulary", type=int, default=120, help="objects of the scenes")
    asked = parser.parse_args()
    folder = bundled().get(asked.model, Path(asked.model))
    model, usual = load(folder), read_header(model_file(folder)).recipe.get("sampler", {})
    if not isinstance(model, LatentDiffusion) or model.spec.text is None:
        raise SystemExit(f"{asked.model} is no latent diffusion that reads captions")
    how: dict[str, Any] = {"size": model.spec.height, "vocabulary": asked.vocabulary, "grid": 16}
    single = Scenes(split="train", skills="single", **how).open("scenes")
    data, see = Scenes(split="test", **how).open("scenes"), extractor("lite0", model.spec)

    def painted(captions: Sequence[str]) -> Images:
        seeds = [*range(len(captions))]
        return model.sample(len(seeds), prompted(model.spec, captions), seed=seeds, **usual)

    table, shares = list[tuple[str, ...]](), list[float]()
    for said, rows in recurring(single, asked.n).items():
        real = spread(from_uint8(single.pixels(torch.tensor(rows))), see)
        made = spread(painted([said] * SEEDS), see)
        shares.append(made / real)
        table.append((said, f"{made:.3f}", f"{real:.3f}", f"{made / real:.2f}"))
    share = torch.tensor(shares)
    error = float(share.std() / len(share) ** 0.5)
    table.append(("mean", "", "", f"{float(share.mean()):.2f} +- {error:.2f}"))
    show(f"spread of {SEEDS} pictures", ("caption", "painted", "real", "ratio"), table)
    rows = torch.tensor(on_plain_ground(data, 4 * asked.n))
    real = from_uint8(data.pixels(rows))
    made = painted(data.captions(rows, Noise.sampling(0, len(rows))))
    through = model.stage.decode(model.stage.encode(real))
    levels = [f"{grain(x):.2f}" for x in (made, through, real)]
    show(f"grain, n = {len(rows)}", ("painted", "autoencoder", "real"), [tuple(levels)])


if __name__ == "__main__":
    main()
