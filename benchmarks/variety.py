"""Do the seeds of a model of scenes differ as much as real scenes, and are flat grounds flat?

    python benchmarks/variety.py scenes

Spread is the mean distance, 1 - cosine of lite0's features, between 16 generated pictures of a
caption, compared with 16 real scenes that happen to have exactly the same caption, which is of one
thing. Grain is the mean total variation of pixels, in levels of 255, at places without a thing on a
ground of one colour. It is measured in generated pictures, in real scenes, and in real scenes that
were reconstructed by the model's autoencoder; it cannot fall below that last value.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timing import count, model_name, options_parser, show

from limner.contract.bundled import find_model
from limner.contract.checkpoint import load, model_file, read_header
from limner.contract.codes import Encodes
from limner.contract.image import Images, from_uint8, to_uint8
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.contract.text import text_condition
from limner.data.grounds import GROUNDS, PLAIN
from limner.data.scenes import ComposedScenes, Scenes
from limner.diffusion.best_of_n import BestOfN
from limner.diffusion.latent_diffusion import LatentDiffusion
from limner.evaluate.extractors.choose import open_extractor
from limner.evaluate.extractors.extractor import Extractor

SEEDS = 16
_SEARCHED = 40_000  # scenes that are searched for recurring captions
_NEAR = 0.1  # largest distance from the ground's colour, for values in [-1, 1]
_EDGE = 2  # smallest distance in pixels from what is not ground


def recurring_captions(data: ComposedScenes, n: int) -> dict[str, list[int]]:
    """Return the first captions that enough scenes have, with the numbers of these scenes."""
    captions = defaultdict[str, list[int]](list)
    for first in range(0, _SEARCHED, 1000):
        rows = torch.arange(first, first + 1000)
        for row, caption in zip(rows.tolist(), data.captions(rows, Noise.sampling(0, 1000))):
            captions[caption].append(row)
    frequent = {caption: rows[:SEEDS] for caption, rows in captions.items() if len(rows) >= SEEDS}
    return dict([*frequent.items()][:n])


def spread(x: Images, extract: Extractor) -> float:
    """Return the mean distance between different pictures."""
    features = F.normalize(extract(to_uint8(x)).features.double(), dim=1)
    similarity = (features @ features.T).fill_diagonal_(0)
    return 1 - float(similarity.sum()) / (len(x) * (len(x) - 1))


def scenes_on_plain_ground(data: ComposedScenes, n: int) -> list[int]:
    """Return the numbers of the first scenes whose captions name a ground of one colour."""
    numbers, i = list[int](), 0
    while len(numbers) < n:
        scene = data.scene(i)
        has_ground = scene and any(
            phrase in scene.caption for phrase in GROUNDS[scene.ground].words
        )
        if scene and has_ground and scene.ground in PLAIN:
            numbers.append(i)
        i += 1
    return numbers


def grain(x: Images) -> float:
    """Return the mean difference of neighbouring pixels on flat ground, in levels of 255."""
    border = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], 2)
    ground = border.median(2).values[:, :, None, None]
    other = ((x - ground).abs().amax(1, keepdim=True) > _NEAR).float()
    flat = F.max_pool2d(other, 2 * _EDGE + 1, 1, _EDGE) == 0
    total, count = 0.0, 0
    for axis in (2, 3):
        first, second = (slice(None, -1), slice(1, None))
        a, b = (x.movedim(axis, 2)[:, :, part] for part in (first, second))
        mask = flat.movedim(axis, 2)
        both = (mask[:, :, first] & mask[:, :, second]).expand_as(a)
        total += float((a - b).abs()[both].sum())
        count += int(both.sum())
    return 127.5 * total / max(1, count)


def mean_text(values: Sequence[float]) -> str:
    """Return a mean, and its standard error if there are at least two values."""
    mean = f"{statistics.fmean(values):.2f}"
    if len(values) < 2:
        return mean
    return f"{mean} +- {statistics.stdev(values) / len(values) ** 0.5:.2f}"


@torch.no_grad()
def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument(
        "model", type=model_name, help="run, model file, or name of a bundled model"
    )
    parser.add_argument(
        "-n", type=count, default=12, help="number of captions; 4 n scenes on plain ground"
    )
    parser.add_argument(
        "--vocabulary", type=count, default=120, help="objects that scenes may have"
    )
    args = parser.parse_args()
    folder = find_model(args.model)
    model, sampler = load(folder), read_header(model_file(folder)).recipe.get("sampler", {})
    base = model.base if isinstance(model, BestOfN) else model
    if not isinstance(base, LatentDiffusion) or base.spec.text is None:
        raise SystemExit(f"{args.model} is not a latent diffusion model that reads captions")
    assert isinstance(model, GenerativeModel) and isinstance(base.stage, Encodes)
    options: dict[str, Any] = {"size": model.spec.height, "vocabulary": args.vocabulary, "grid": 16}
    single = Scenes(split="train", skills="single", **options).open("scenes")
    data = Scenes(split="test", **options).open("scenes")
    extract = open_extractor("lite0", model.spec)

    def paint(captions: Sequence[str]) -> Images:
        seeds = [*range(len(captions))]
        return model.sample(len(seeds), text_condition(model.spec, captions), seed=seeds, **sampler)

    table, shares = list[tuple[str, ...]](), list[float]()
    for caption, rows in recurring_captions(single, args.n).items():
        real = spread(from_uint8(single.pixels(torch.tensor(rows))), extract)
        painted = spread(paint([caption] * SEEDS), extract)
        shares.append(painted / real)
        table.append((caption, f"{painted:.3f}", f"{real:.3f}", f"{painted / real:.2f}"))
    table.append(("mean", "", "", mean_text(shares)))
    show(f"spread of {SEEDS} pictures", ("caption", "painted", "real", "ratio"), table)
    rows = torch.tensor(scenes_on_plain_ground(data, 4 * args.n))
    real = from_uint8(data.pixels(rows))
    painted = paint(data.captions(rows, Noise.sampling(0, len(rows))))
    reconstructed = base.stage.decode(base.stage.encode(real))
    levels = [f"{grain(x):.2f}" for x in (painted, reconstructed, real)]
    show(f"grain, n = {len(rows)}", ("painted", "autoencoder", "real"), [tuple(levels)])


if __name__ == "__main__":
    main()
