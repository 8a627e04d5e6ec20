"""How fast is a Frechet inception distance from files to the number, beside the reference tools?

    pip install "limner[bench]"
    python benchmarks/extractor.py
    python benchmarks/extractor.py --images 40 --rounds 2
    python benchmarks/extractor.py --weights pt_inception-2015-12-05-6726825d.pth

Pictures of the bundled emoji are written as PNG files, half of them in 3D style and half flat, and
the distance of the styles is asked for. Each contestant opens the files, resizes them, sees them
through the same Inception network and adds up their statistics, a part of the files after the
other, all contestants in turns; then each computes the distance. The weights are random unless a
file of them is given.

    limner float32     `inception-v3`, as `limner evaluate` looks at a folder
    limner bfloat16    the same in bfloat16
    pytorch-fid        `get_activations`, with its own workers and batches of 50
    torch-fidelity     `extract_featuresdict_from_input_id`, with its own workers and batches of 64

How to read it: `img/s` is over all files, the distance's seconds included; `limner is` compares
the seconds of each part, limner's float32 being so many times as fast as this row: median
(least-greatest of the parts); `distance` is between the styles; `mixed` between two halves of
either style together, where it is least and rounding shows most; `off by` compares both with
float32's. pytorch-fid resizes in another way, so its distances are slightly different ones. With
fewer images than features its matrix root is slow, and not exact.
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from timing import ratio, show, timed
from torch import Tensor

from limner.data import open_data
from limner.data.png import save_png
from limner.evaluate.extractors.extractor import Extractor
from limner.evaluate.extractors.inception import Inception, Network, loaded
from limner.evaluate.metrics.fid import distance_of_features, frechet_distance
from limner.evaluate.metrics.statistics import Moments
from limner.evaluate.passes import BLOCK, FeatureObserver
from limner.evaluate.picture_sets import RealPictures

STYLES = ("3d", "flat")


@dataclass(frozen=True)
class Contestant:
    """A way from a folder of files to features, a row each, and from two sets to a distance."""

    features: Callable[[Path], Tensor]
    distance: Callable[[Tensor, Tensor], float]


def random_weights() -> dict[str, Tensor]:
    """Such that activations stay near 1, statistics of every norm included."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        known = Network().state_dict()
    found = {}
    for name, like in known.items():
        u = torch.rand(like.shape, generator=generator) - 0.5
        if name.endswith(("bn.weight", "running_var")):
            u = 1 + u / 2
        elif like.ndim > 1:
            u *= (24 / like[0].numel()) ** 0.5  # of variance 2 / fan-in
        found[name] = u if like.ndim else torch.tensor(0)
    return found


def of_limner(extract: Extractor) -> Contestant:
    seen = FeatureObserver(extract)

    def features(folder: Path) -> Tensor:
        pictures = RealPictures(open_data(f"folder:{folder}", split="all"))
        numbers = torch.arange(len(pictures)).split(BLOCK)
        looks = (seen.look(pictures, some, pictures.pictures(some)) for some in numbers)
        rows = torch.cat([look["features"] for look in looks])
        return rows[pictures.indices(torch.arange(len(pictures))).argsort()]  # as the files are

    def distance(x: Tensor, y: Tensor) -> float:
        one, other = (Moments.of(z) for z in (x, y))
        return frechet_distance(one, other)

    return Contestant(features, distance)


def of_pytorch_fid(weights: Mapping[str, Tensor]) -> Contestant:
    import numpy as np
    from pytorch_fid import fid_score, inception

    with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: dict(weights)):
        model = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    workers = min(os.cpu_count() or 1, 8)

    def features(folder: Path) -> Tensor:
        files = sorted(folder.glob("*.png"))
        return torch.from_numpy(
            fid_score.get_activations(files, model.eval(), 50, 2048, "cpu", workers)
        )

    def distance(x: Tensor, y: Tensor) -> float:
        parts = [part for z in (x.numpy(), y.numpy()) for part in (z.mean(0), np.cov(z.T))]
        return float(fid_score.calculate_frechet_distance(*parts))

    return Contestant(features, distance)


def of_torch_fidelity(weights: Mapping[str, Tensor], folder: Path) -> Contestant:
    from torch_fidelity import metric_fid, utils

    torch.save(dict(weights), folder / "weights.pth")
    quiet: dict[str, Any] = {"cuda": False, "verbose": False}
    extract = utils.create_feature_extractor(
        "inception-v3-compat",
        ["2048"],
        feature_extractor_weights_path=str(folder / "weights.pth"),
        **quiet,
    )

    def features(folder: Path) -> Tensor:
        return utils.extract_featuresdict_from_input_id(1, extract, input1=str(folder), **quiet)[
            "2048"
        ]

    def distance(x: Tensor, y: Tensor) -> float:
        one, other = (metric_fid.fid_features_to_statistics(z) for z in (x, y))
        return metric_fid.fid_statistics_to_metric(one, other, False)["frechet_inception_distance"]

    return Contestant(features, distance)


def written(images: int, size: int, rounds: int, folder: Path) -> dict[str, list[Path]]:
    """Folders of files, as many of each style as there are rounds."""
    found: dict[str, list[Path]] = {}
    for style in STYLES:
        data = open_data("emoji", size=size, style=style, split="all")
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        if len(order) < (wanted := images // 2):
            raise SystemExit(f"there are {len(order):,} {style} pictures; ask for fewer images")
        for part, numbers in enumerate(order[:wanted].tensor_split(rounds)):
            own = folder / f"{style}-{part}"
            own.mkdir()
            for i, image in zip(numbers.tolist(), data.pixels(numbers)):
                save_png(image, own / f"{i:05d}.png")
            found.setdefault(style, []).append(own)
    return found


@dataclass(frozen=True)
class Found:
    """Seconds of each part and of the distance, the distance, and that of mixed halves."""

    seconds: list[float]
    last: float
    distance: float
    mixed: float


def measured(
    contestants: Mapping[str, Contestant], parts: Mapping[str, list[Path]]
) -> dict[str, Found]:
    """What each contestant found, and how fast."""
    rows: dict[str, dict[str, list[Tensor]]] = {n: {s: [] for s in parts} for n in contestants}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}

    def look(name: str, folders: Mapping[str, Path]) -> None:
        for style, folder in folders.items():
            rows[name][style].append(contestants[name].features(folder))

    for folders in zip(*parts.values()):
        for name in contestants:
            seconds[name].append(timed(partial(look, name, dict(zip(parts, folders)))))
    found = {}
    for name, contestant in contestants.items():
        x, y = (torch.cat(of) for of in rows[name].values())
        started = time.perf_counter()
        distance = contestant.distance(x, y)
        last = time.perf_counter() - started
        halves = torch.cat([x[::2], y[::2]]), torch.cat([x[1::2], y[1::2]])
        found[name] = Found(seconds[name], last, distance, distance_of_features(*halves))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000, help="of both styles together")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10, help="parts that the files come in")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--weights", type=Path, help="of pytorch-fid or torch-fidelity")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    weights = random_weights()
    if asked.weights:
        weights = torch.load(asked.weights, map_location="cpu", weights_only=True)

    # scipy warns of an argument that will go; pytorch-fid shows bars and prints where it adds eps
    with (
        tempfile.TemporaryDirectory() as place,
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        folder = Path(place)
        contestants = {
            "limner float32": of_limner(Inception(loaded(weights, "these"))),
            "limner bfloat16": of_limner(Inception(loaded(weights, "these"), dtype="bfloat16")),
            "pytorch-fid": of_pytorch_fid(weights),
            "torch-fidelity": of_torch_fidelity(weights, folder),
        }
        found = measured(contestants, written(asked.images, asked.size, asked.rounds, folder))
    exact = found["limner float32"]
    rows = [
        (
            name,
            f"{asked.images / (sum(of.seconds) + of.last):.2f}",
            "" if of is exact else ratio(of.seconds, exact.seconds),
            f"{of.last:.2f}",
            f"{of.distance:.6g}",
            f"{of.distance / exact.distance - 1:.0e}",
            f"{of.mixed:.6g}",
            f"{of.mixed / exact.mixed - 1:.0e}",
        )
        for name, of in found.items()
    ]
    kind = "weights of the file" if asked.weights else "random weights"
    title = f"{asked.images:,} PNG files of {asked.size} x {asked.size}, {kind}"
    columns = ("", "img/s", "limner is", "s for distance", "distance", "off by", "mixed", "off by")
    show(title, columns, rows)


if __name__ == "__main__":
    main()
