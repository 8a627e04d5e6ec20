"""How fast is the Frechet inception distance, from files to the number, compared with other tools?

    pip install "limner[bench]"
    python benchmarks/extractor.py
    python benchmarks/extractor.py --images 40 --rounds 2
    python benchmarks/extractor.py --weights pt_inception-2015-12-05-6726825d.pth

Pictures of the bundled emoji are written as PNG files, half of them in 3D style and half flat, and
the distance between the styles is computed. Each contestant opens the files, resizes them, passes
them through the same Inception network and accumulates the statistics. The files come in parts, and
all contestants take turns at each part. Then each contestant computes the distance. The weights are
random unless a file is given with --weights.

    limner float32     `inception-v3`, as in `limner evaluate` on a folder
    limner bfloat16    the same in bfloat16
    pytorch-fid        `get_activations`, with its own workers and batches of 50
    torch-fidelity     `extract_featuresdict_from_input_id`, with its own workers and batches of 64

How to read it: `img/s` is over all files and includes the time for the distance. `limner is` says
how many times as fast as this row limner in float32 is, from the seconds of each part: median
(smallest-largest of the parts). `distance` is between the styles. `mixed` is between two halves
that both have pictures of both styles; it is the smallest distance, so rounding shows most. `off
by` is the relative difference of either from float32's. pytorch-fid resizes in another way, so its
distances differ slightly. With fewer images than features, its matrix root is slow and not exact.
"""

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
from timing import count, options_parser, ratio, show, time_call
from torch import Tensor

from limner.data import open_data
from limner.data.png import save_png
from limner.evaluate.extractors.extractor import Extractor
from limner.evaluate.extractors.inception import Inception, Network, load_network
from limner.evaluate.metrics.fid import distance_of_features, frechet_distance
from limner.evaluate.metrics.statistics import Moments
from limner.evaluate.passes import BLOCK_PICTURES, FeatureObserver
from limner.evaluate.picture_sets import RealPictures

STYLES = ("3d", "flat")


@dataclass(frozen=True)
class Contestant:
    """A tool: how it computes features from a folder, one row per file, and a distance from two
    sets.
    """

    features: Callable[[Path], Tensor]
    distance: Callable[[Tensor, Tensor], float]


def random_weights() -> dict[str, Tensor]:
    """Return random weights, with norms' statistics, for which activations stay near 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        state = Network().state_dict()
    weights = {}
    for name, tensor in state.items():
        u = torch.rand(tensor.shape, generator=generator) - 0.5
        if name.endswith(("bn.weight", "running_var")):
            u = 1 + u / 2
        elif tensor.ndim > 1:
            u *= (24 / tensor[0].numel()) ** 0.5  # variance 2 / fan-in
        weights[name] = u if tensor.ndim else torch.tensor(0)
    return weights


def limner_contestant(extract: Extractor) -> Contestant:
    observer = FeatureObserver(extract)

    def features(folder: Path) -> Tensor:
        pictures = RealPictures(open_data(f"folder:{folder}", split="all"))
        numbers = torch.arange(len(pictures)).split(BLOCK_PICTURES)
        looks = (observer.look(pictures, batch, pictures.pictures(batch)) for batch in numbers)
        rows = torch.cat([look["features"] for look in looks])
        order = pictures.indices(torch.arange(len(pictures))).argsort()  # that of the files
        return rows[order]

    def distance(x: Tensor, y: Tensor) -> float:
        one, other = (Moments.of(z) for z in (x, y))
        return frechet_distance(one, other)

    return Contestant(features, distance)


def pytorch_fid_contestant(weights: Mapping[str, Tensor]) -> Contestant:
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
        (mean, covariance), other = ((z.mean(0), np.cov(z.T)) for z in (x.numpy(), y.numpy()))
        return float(fid_score.calculate_frechet_distance(mean, covariance, *other))

    return Contestant(features, distance)


def torch_fidelity_contestant(weights: Mapping[str, Tensor], folder: Path) -> Contestant:
    from torch_fidelity import metric_fid, utils

    torch.save(dict(weights), folder / "weights.pth")
    options: dict[str, Any] = {"cuda": False, "verbose": False}
    extract = utils.create_feature_extractor(
        "inception-v3-compat",
        ["2048"],
        feature_extractor_weights_path=str(folder / "weights.pth"),
        **options,
    )

    def features(folder: Path) -> Tensor:
        return utils.extract_featuresdict_from_input_id(1, extract, input1=str(folder), **options)[
            "2048"
        ]

    def distance(x: Tensor, y: Tensor) -> float:
        one, other = (metric_fid.fid_features_to_statistics(z) for z in (x, y))
        return metric_fid.fid_statistics_to_metric(one, other, False)["frechet_inception_distance"]

    return Contestant(features, distance)


def write_files(images: int, size: int, rounds: int, folder: Path) -> dict[str, list[Path]]:
    """Write the files; return as many folders for each style as there are rounds."""
    folders: dict[str, list[Path]] = {}
    for style in STYLES:
        data = open_data("emoji", size=size, style=style, split="all")
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        if len(order) < (n := images // 2):
            raise SystemExit(
                f"there are only {len(order):,} {style} pictures; pass a smaller --images"
            )
        for part, numbers in enumerate(order[:n].tensor_split(rounds)):
            part_folder = folder / f"{style}-{part}"
            part_folder.mkdir()
            for i, image in zip(numbers.tolist(), data.pixels(numbers)):
                save_png(image, part_folder / f"{i:05d}.png")
            folders.setdefault(style, []).append(part_folder)
    return folders


@dataclass(frozen=True)
class Result:
    """The results of a contestant: seconds of each part and of the distance, and both distances."""

    seconds: list[float]
    distance_seconds: float
    distance: float
    mixed: float


def measure(
    contestants: Mapping[str, Contestant], files: Mapping[str, list[Path]]
) -> dict[str, Result]:
    """Return the distances of each contestant, and the seconds that it took."""
    features: dict[str, dict[str, list[Tensor]]] = {n: {s: [] for s in files} for n in contestants}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}

    def extract_features(name: str, folders: Mapping[str, Path]) -> None:
        for style, folder in folders.items():
            features[name][style].append(contestants[name].features(folder))

    first, *_ = next(iter(files.values()))
    for contestant in contestants.values():
        contestant.features(first)  # the first call is slower, so it is not timed
    for folders in zip(*files.values()):
        for name in contestants:
            seconds[name].append(
                time_call(partial(extract_features, name, dict(zip(files, folders))))
            )
    results = {}
    for name, contestant in contestants.items():
        x, y = (torch.cat(parts) for parts in features[name].values())
        start = time.perf_counter()
        distance = contestant.distance(x, y)
        distance_seconds = time.perf_counter() - start
        halves = torch.cat([x[::2], y[::2]]), torch.cat([x[1::2], y[1::2]])
        results[name] = Result(
            seconds[name], distance_seconds, distance, distance_of_features(*halves)
        )
    return results


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--images", type=count, default=5000, help="images of both styles together")
    parser.add_argument("--size", type=count, default=64)
    parser.add_argument(
        "--rounds", type=count, default=10, help="number of parts that the files are split into"
    )
    parser.add_argument("--threads", type=count, default=os.cpu_count())
    parser.add_argument(
        "--weights", type=Path, help="file with the weights of pytorch-fid or torch-fidelity"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    weights = random_weights()
    if args.weights:
        weights = torch.load(args.weights, map_location="cpu", weights_only=True)

    # scipy warns about a deprecated argument; pytorch-fid shows bars and prints when it adds eps
    with (
        tempfile.TemporaryDirectory() as temporary,
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        folder = Path(temporary)
        contestants = {
            "limner float32": limner_contestant(Inception(load_network(weights, "these"))),
            "limner bfloat16": limner_contestant(
                Inception(load_network(weights, "these"), dtype="bfloat16")
            ),
            "pytorch-fid": pytorch_fid_contestant(weights),
            "torch-fidelity": torch_fidelity_contestant(weights, folder),
        }
        results = measure(contestants, write_files(args.images, args.size, args.rounds, folder))
    exact = results["limner float32"]
    rows = [
        (
            name,
            f"{args.images / (sum(result.seconds) + result.distance_seconds):.2f}",
            "" if result is exact else ratio(result.seconds, exact.seconds),
            f"{result.distance_seconds:.2f}",
            f"{result.distance:.6g}",
            f"{result.distance / exact.distance - 1:.0e}",
            f"{result.mixed:.6g}",
            f"{result.mixed / exact.mixed - 1:.0e}",
        )
        for name, result in results.items()
    ]
    kind = "weights from the file" if args.weights else "random weights"
    title = f"{args.images:,} PNG files of {args.size} x {args.size}, {kind}"
    columns = ("", "img/s", "limner is", "distance, s", "distance", "off by", "mixed", "off by")
    show(title, columns, rows)


if __name__ == "__main__":
    main()
