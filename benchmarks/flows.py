"""How fast are the training and sampling of Glow, compared with normflows, with equal networks?

    pip install normflows
    python benchmarks/flows.py --threads 1
    python benchmarks/flows.py --K 16 --hidden 128 --batches 32 --rounds 5

Both are Glow for 28 x 28 grey pictures with L = 2 scales of K steps (activation norm, 1 x 1
convolution in LU form, affine coupling with three convolutions) and normal numbers at each scale.
Neither has the learned prior, because normflows does not support it. They have the same number of
parameters. Each trains and paints with its own code, in its own process:

    limner      training: `Loop.advance` on a `Stream`, from the picture's number to the optimiser's
                step: fused AdamW, averaged weights; painting: `model.sample`, a random stream for
                each picture, levels; both keep freed memory, as the command line does
    normflows   training: the loop of its examples, `forward_kld` of batches that are in memory,
                with its `Jitter`, Adam; painting: `model.sample`

They take turns, A B A B; medians over the rounds are printed. If other programs run at the same
time, check how far the ratios spread.

How to read it:

    img/s       pictures per second
    limner is   how many times as fast as this row limner is, in the first of its types: median
                (smallest-largest of the rounds)

normflows supports only float32; limner's recipes train in bfloat16.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from in_memory import InMemory, limner_training
from timing import Call, count, options_parser, ratio, run_in_process, show, time_interleaved

from limner import ImageSpec, build
from limner.flows.glow import Glow, step
from limner.maths.couplings import Affine
from limner.maths.transforms import Chain, Inverse, Split, Squeeze
from limner.runtime.allocator import keep_freed_memory

SPEC = ImageSpec(1, 28, 28)


def limner_glow(K: int, hidden: int) -> Glow:
    """Return limner's Glow without the learned prior."""
    model = build("glow", SPEC, K=K, hidden=hidden)
    assert isinstance(model, Glow)

    def steps(channels: int) -> list[Chain]:
        return [step(channels, hidden, 0, Affine()) for _ in range(K)]

    squeeze = Squeeze()
    rest = Chain(squeeze, *steps(8), Inverse(squeeze))
    model.flow = Chain(squeeze, *steps(4), Split(rest), Inverse(squeeze))
    return model


def normflows_glow(K: int, hidden: int) -> Any:
    """Return the Glow of normflows' example, with standard normal numbers at each scale."""
    from normflows import MultiscaleFlow
    from normflows.distributions import DiagGaussian
    from normflows.flows import GlowBlock, Merge, Squeeze

    shapes = (8, 7, 7), (2, 14, 14)
    flows = [[*(GlowBlock(c, hidden) for _ in range(K)), Squeeze()] for c in (8, 4)]
    bases = [DiagGaussian(shape, trainable=False) for shape in shapes]
    return MultiscaleFlow(bases, flows, [Merge()], class_cond=False)


def normflows_training(K: int, hidden: int, n: int, batch: int) -> Call:
    from normflows.utils import Jitter

    model, data = normflows_glow(K, hidden), InMemory(SPEC, n)
    optimiser, jitter = torch.optim.Adam(model.parameters(), lr=1e-3), Jitter(1 / 256)

    def epoch() -> None:
        for pictures in data.stored.split(batch):
            x = jitter(pictures / 256)
            optimiser.zero_grad()
            loss = model.forward_kld(x)
            if not (torch.isnan(loss) | torch.isinf(loss)):
                loss.backward()
                optimiser.step()

    return epoch


def limner_painting(model: Glow, batch: int, dtype: str) -> Call:
    def paint() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            model.sample(batch)

    return paint


def normflows_painting(K: int, hidden: int, batch: int) -> Call:
    model = normflows_glow(K, hidden)

    def paint() -> None:
        with torch.no_grad():
            model.sample(batch)

    return paint


def parameter_count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def rows(
    task: str, calls: dict[str, Callable[[], object]], pictures: int, rounds: int
) -> list[list[str]]:
    """Return the table's rows of one comparison; ratios are to the first contestant."""
    seconds = time_interleaved(calls, rounds, 0)
    reference = next(iter(calls))
    return [
        [
            name,
            task,
            f"{pictures / statistics.median(times):,.0f}",
            "" if name == reference else ratio(times, seconds[reference]),
        ]
        for name, times in seconds.items()
    ]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--K", type=count, default=8, help="flow steps at each scale")
    parser.add_argument("--hidden", type=count, default=64, help="coupling networks' features")
    parser.add_argument("--batches", nargs="+", type=count, default=[64])
    parser.add_argument("--pictures", type=count, default=256, help="pictures per epoch")
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32", "bfloat16"], help="limner's types"
    )
    parser.add_argument("--rounds", type=count, default=7)
    parser.add_argument("--threads", type=count, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    data = InMemory(SPEC, args.pictures)
    n_limner, n_normflows = (
        parameter_count(make(args.K, args.hidden)) for make in (limner_glow, normflows_glow)
    )
    if n_limner != n_normflows:
        raise SystemExit(f"the networks differ: {n_limner} and {n_normflows} parameters")
    table: list[list[str]] = []
    for batch in args.batches:
        training: dict[str, Callable[[], object]] = {
            f"limner {dtype}": limner_training(limner_glow(args.K, args.hidden), data, batch, dtype)
            for dtype in args.dtypes
        }
        training["normflows float32"] = run_in_process(
            normflows_training, args.K, args.hidden, args.pictures, batch
        )
        table += rows(f"training, {batch}", training, args.pictures, args.rounds)
        model = limner_glow(args.K, args.hidden)
        painting: dict[str, Callable[[], object]] = {
            f"limner {dtype}": limner_painting(model, batch, dtype) for dtype in args.dtypes
        }
        painting["normflows float32"] = run_in_process(
            normflows_painting, args.K, args.hidden, batch
        )
        table += rows(f"sampling, {batch}", painting, batch, args.rounds)
    title = (
        f"Glow of 28 x 28 pictures, K = {args.K}, {args.hidden} features, {n_limner:,} parameters, "
        f"{args.threads} thread(s)"
    )
    show(title, ["", "task, batch", "img/s", "limner is"], table)


if __name__ == "__main__":
    main()
