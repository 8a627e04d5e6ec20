"""How fast are training and sampling of Glow, beside normflows, at equal networks?

    pip install normflows
    python benchmarks/flows.py --threads 1
    python benchmarks/flows.py --K 16 --hidden 128 --batches 32 --rounds 5

Both are Glow of 28 x 28 grey pictures with L = 2 scales of K steps (activation norm, 1 x 1
convolution in LU form, affine coupling with three convolutions) and normal numbers at each scale,
without a learned prior, which normflows has not got; they have equally many parameters. Each trains
and paints as it does by itself, in a process of its own:

    limner      training: `Loop.advance` on a `Stream`, from the picture's number to the optimiser's
                step: fused AdamW, the average of the weights; painting: `model.sample`, a random
                stream for each picture, levels; both keep freed memory, as the command line does
    normflows   training: the loop of its examples, `forward_kld` of batches that lie in memory,
                with its `Jitter`, Adam; painting: `model.sample`

They take turns, A B A B; medians over the rounds are printed. Where other programs compute too,
look at the ratio's spread.

How to read it:

    img/s       pictures a second
    limner is   so many times as fast as this row, in the first of its types: median (least-greatest
                of the rounds)

normflows has no type but float32; limner's bfloat16 is what its recipes train in.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int, UInt8
from timing import Call, apart, interleaved, ratio, show
from torch import Tensor

from limner import ImageSpec, build
from limner.data.dataset import Dataset
from limner.data.stream import Stream
from limner.flows.glow import Glow, step
from limner.maths.couplings import Affine
from limner.maths.transforms import Chain, Inverse, Split, Squeeze
from limner.runtime.allocator import keep_freed_memory
from limner.training.loop import Loop, TrainOptions

SPEC = ImageSpec(1, 28, 28)


class InMemory(Dataset):
    """Grey pictures at random."""

    def __init__(self, n: int) -> None:
        self.spec = SPEC
        self.kept = torch.randint(0, 256, (n, *SPEC.shape), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.kept)

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """As they are."""
        return self.kept[indices]


def limners(K: int, hidden: int) -> Glow:
    """Without the learned prior."""
    model = build("glow", SPEC, K=K, hidden=hidden)
    assert isinstance(model, Glow)

    def steps(channels: int) -> list[Chain]:
        return [step(channels, hidden, 0, Affine()) for _ in range(K)]

    squeeze = Squeeze()
    rest = Chain(squeeze, *steps(8), Inverse(squeeze))
    model.flow = Chain(squeeze, *steps(4), Split(rest), Inverse(squeeze))
    return model


def normflows(K: int, hidden: int) -> Any:
    """As its example of Glow has it, with standard normal numbers at each scale."""
    from normflows import MultiscaleFlow
    from normflows.distributions import DiagGaussian
    from normflows.flows import GlowBlock, Merge, Squeeze

    shapes = (8, 7, 7), (2, 14, 14)
    flows = [[*(GlowBlock(c, hidden) for _ in range(K)), Squeeze()] for c in (8, 4)]
    bases = [DiagGaussian(shape, trainable=False) for shape in shapes]
    return MultiscaleFlow(bases, flows, [Merge()], class_cond=False)


def training_limners(model: Glow, data: InMemory, batch: int, dtype: str) -> Call:
    options = TrainOptions.of({"steps": 10**9, "batch": batch, "lr": 1e-3, "dtype": dtype})
    loop = Loop(model, Stream(data, 0).batch, options)
    return lambda: [loop.advance() for _ in range(len(data) // batch)]


def training_normflows(K: int, hidden: int, n: int, batch: int) -> Call:
    from normflows.utils import Jitter

    model, data = normflows(K, hidden), InMemory(n)
    optimiser, jitter = torch.optim.Adam(model.parameters(), lr=1e-3), Jitter(1 / 256)

    def epoch() -> None:
        for pictures in data.kept.split(batch):
            x = jitter(pictures / 256)
            optimiser.zero_grad()
            loss = model.forward_kld(x)
            if not (torch.isnan(loss) | torch.isinf(loss)):
                loss.backward()
                optimiser.step()

    return epoch


def painting_limners(model: Glow, batch: int, dtype: str) -> Call:
    def paint() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            model.sample(batch)

    return paint


def painting_normflows(K: int, hidden: int, batch: int) -> Call:
    model = normflows(K, hidden)

    def paint() -> None:
        with torch.no_grad():
            model.sample(batch)

    return paint


def counted(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def rows(
    what: str, calls: dict[str, Callable[[], object]], pictures: int, rounds: int
) -> list[list[str]]:
    """The table's rows of one comparison; the first contestant is what the others are beside."""
    seconds = interleaved(calls, rounds, 0)
    first = next(iter(calls))
    return [
        [
            name,
            what,
            f"{pictures / statistics.median(took):,.0f}",
            "" if name == first else ratio(took, seconds[first]),
        ]
        for name, took in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--K", type=int, default=8, help="steps at each scale")
    parser.add_argument("--hidden", type=int, default=64, help="features of the networks")
    parser.add_argument("--batches", nargs="+", type=int, default=[64])
    parser.add_argument("--pictures", type=int, default=256, help="in an epoch")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="limner's")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    data = InMemory(asked.pictures)
    own, other = (counted(make(asked.K, asked.hidden)) for make in (limners, normflows))
    if own != other:
        raise SystemExit(f"the networks differ: {own} and {other} parameters")
    found: list[list[str]] = []
    for batch in asked.batches:
        learning: dict[str, Callable[[], object]] = {
            f"limner {dtype}": training_limners(limners(asked.K, asked.hidden), data, batch, dtype)
            for dtype in asked.dtypes
        }
        learning["normflows float32"] = apart(
            training_normflows, asked.K, asked.hidden, asked.pictures, batch
        )
        found += rows(f"training, {batch}", learning, asked.pictures, asked.rounds)
        model = limners(asked.K, asked.hidden)
        painting: dict[str, Callable[[], object]] = {
            f"limner {dtype}": painting_limners(model, batch, dtype) for dtype in asked.dtypes
        }
        painting["normflows float32"] = apart(painting_normflows, asked.K, asked.hidden, batch)
        found += rows(f"sampling, {batch}", painting, batch, asked.rounds)
    title = (
        f"Glow of 28 x 28 pictures, K = {asked.K}, {asked.hidden} features, {own:,} parameters, "
        f"{asked.threads} thread(s)"
    )
    show(title, ["", "what, batch", "img/s", "limner is"], found)


if __name__ == "__main__":
    main()
