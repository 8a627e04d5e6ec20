"""How fast is the Frechet distance from the moments of two sets, compared with reference tools?

    pip install "limner[bench]"
    python benchmarks/frechet.py
    python benchmarks/frechet.py --features 512 --rounds 1

Features are normal, with variances that fall like those of Inception's features, in two cases:

    full rank   four times as many images as features
    singular    half as many images as features in both sets

limner uses a Cholesky factor and symmetric eigenvalues, or a singular value decomposition if a
covariance has no factor. pytorch-fid uses scipy's matrix root, and adds 1e-6 to the diagonals if
that is not finite. torch-fidelity uses the eigenvalues of the product.

How to read it: `seconds` are medians over the rounds; `limner is` says how many times as fast as
this row limner is: median (smallest-largest of the rounds); `off by` is the distance divided by
limner's, minus 1.
"""

import contextlib
import io
import os
import statistics
import warnings
from collections.abc import Callable

import torch
from timing import count, options_parser, ratio, show, time_interleaved
from torch import Tensor

from limner.evaluate.metrics.fid import frechet_distance
from limner.evaluate.metrics.statistics import Moments


def contestants(one: Moments, other: Moments) -> dict[str, Callable[[], float]]:
    """Return the contestants' calls; each uses its own kind of statistics, computed beforehand."""
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    first, second = ((m.mean.numpy(), m.covariance.numpy()) for m in (one, other))
    pairs = [dict(zip(("mu", "sigma"), pair)) for pair in (first, second)]
    return {
        "limner": lambda: frechet_distance(one, other),
        "pytorch-fid": lambda: float(calculate_frechet_distance(*first, *second)),
        "torch-fidelity": lambda: fid_statistics_to_metric(*pairs, verbose=False)[
            "frechet_inception_distance"
        ],
    }


def random_features(images: int, features: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, features, dtype=torch.float64, generator=generator)
    scale = torch.logspace(0, -2, features, dtype=torch.float64)
    mix = torch.randn(features, features, dtype=torch.float64, generator=generator)
    return (1 + 0.05 * seed) * (x * scale) @ (torch.eye(features) + mix / features) + 0.02 * seed


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--features", type=count, default=2048)
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--threads", type=count, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for case, images in (("full rank", 4 * args.features), ("singular", args.features // 2)):
        one, other = (Moments.of(random_features(images, args.features, seed)) for seed in (0, 1))
        calls = contestants(one, other)
        values: dict[str, float] = {}

        def store_value(
            name: str, call: Callable[[], float], values: dict[str, float] = values
        ) -> None:
            values[name] = call()

        # pytorch-fid prints when it adds to diagonals; scipy warns about a deprecated argument
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            times = time_interleaved(
                {name: lambda n=name, c=call: store_value(n, c) for name, call in calls.items()},
                args.rounds,
                0,
            )
        rows = [
            (
                name,
                f"{statistics.median(seconds):.2f}",
                "" if name == "limner" else ratio(seconds, times["limner"]),
                f"{values[name]:.9g}",
                f"{values[name] / values['limner'] - 1:.0e}",
            )
            for name, seconds in times.items()
        ]
        title = f"{case}: {images:,} images, {args.features:,} features, {args.threads} threads"
        show(title, ("", "seconds", "limner is", "distance", "off by"), rows)


if __name__ == "__main__":
    main()
