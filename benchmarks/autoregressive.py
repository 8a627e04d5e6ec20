"""What does looking at earlier pixels only cost, and what do caches gain?

    python benchmarks/autoregressive.py
    python benchmarks/autoregressive.py sampling --models pixelcnn gated-pixelcnn --looks 20
    python benchmarks/autoregressive.py masks recurrence --threads 1 --rounds 15

Four questions, all of pictures of 28 x 28 with one channel of two levels, by networks of random
weights, in float32 if nothing else is said:

    training      whole training steps of each model as its recipe for binarised MNIST has them,
                  batch and bfloat16 included, and pictures painted in float32; in seconds that
                  the process computes, whatever else the machine does
    sampling      `sample` beside a loop that looks at the whole picture before each value, as most
                  code does; both paint the same pictures of the same uniform numbers
    masks         a training step's forward and backward passes of PixelCNN's network beside those
                  of plain stacks of `nn.Conv2d`, channels-last, of as many layers and features:
                  one with kernels of the same shape, without masks, and one with square kernels,
                  the way masks are mostly written
    recurrence    forward and backward passes of the Diagonal BiLSTM's recurrence beside those of a
                  bidirectional `nn.LSTM` of equal sequential steps, 2 N - 1, and of equal FLOPs: as
                  many states in all, and as many inputs as ours sees states through its second tap

How to read it: seconds are medians over the rounds, in which contestants take turns; `is` says how
many times as long as the first row: median (least-greatest of the rounds). Naive sampling is timed
at so many of the pixels as --looks says, evenly spread, and multiplied: each costs a look at the
whole picture.
"""

import argparse
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import Call, interleaved, ratio, show
from torch import Tensor, nn

from limner import Batch, Condition, ImageSpec, build
from limner.autoregressive.autoregressive_model import AutoregressiveModel
from limner.autoregressive.causal_convolution import CausalConv2d
from limner.autoregressive.diagonal_lstm import Recurrence, diagonals
from limner.autoregressive.pixelcnn import Block, Network, PixelCNN
from limner.contract.registry import models
from limner.maths.pixel_distributions import draw
from limner.training.loop import Loop
from limner.training.recipe import Recipe

RECIPES = Path(__file__).parents[1] / "recipes" / "autoregressive"
SIZE = 28
SPEC = ImageSpec(1, SIZE, SIZE, levels=2)
FAMILY = [name for name, of in models().items() if of.family == "autoregressive"]


def table(title: str, found: Mapping[str, list[float]]) -> None:
    """Seconds, and ratios to the first row."""
    first = next(iter(found.values()))
    rows = [
        (name, f"{statistics.median(times):.4f}", ratio(times, first))
        for name, times in found.items()
    ]
    show(f"{title}, {torch.get_num_threads()} threads", ("", "seconds", "is"), rows)


def trained(recipe: Recipe) -> tuple[AutoregressiveModel, Call]:
    """A recipe's model, and a step of its training, on one batch."""
    model, options = recipe.build(SPEC), recipe.options()
    assert isinstance(model, AutoregressiveModel)
    batch = Batch(torch.rand(options.batch, 1, SIZE, SIZE).round() * 2 - 1, Condition())
    loop = Loop(model, lambda first, n: batch, options)
    loop.prepare()
    return model, loop.advance


def training(args: argparse.Namespace) -> None:
    """Pictures a second that are trained on, and seconds to paint some."""
    rows = []
    for name in args.models:
        recipe = Recipe.read(RECIPES / f"{name}-mnist-binary.toml")
        model, step = trained(recipe)
        calls = {"step": step, "paint": lambda model=model: model.sample(args.batch)}
        found = interleaved(calls, args.rounds, seconds=0, clock=time.process_time)
        each, paint = statistics.median(found["step"]), statistics.median(found["paint"])
        batch = recipe.options().batch
        row = f"{model.parameter_count():,}", f"{batch}", f"{batch / each:.0f}", f"{paint:.2f}"
        rows.append((name, *row))
    show(
        f"training, {torch.get_num_threads()} threads, {args.rounds} rounds",
        ("", "parameters", "batch", "trained on, pictures/s", f"{args.batch} painted, s"),
        rows,
    )


def looked_at(model: AutoregressiveModel, batch: int, looks: int) -> Call:
    """The naive loop at some pixels: a look at the whole picture, and a value drawn."""
    x = torch.zeros(batch, SIZE, SIZE, 1)
    k = torch.zeros(batch, SIZE, SIZE, 1, dtype=torch.int64)
    u = torch.rand(batch, SIZE, SIZE)
    pixels = [i * SIZE * SIZE // looks for i in range(looks)]

    @torch.no_grad()
    def paint() -> None:
        for row, column in (divmod(pixel, SIZE) for pixel in pixels):
            theta = model.network(x, None)[:, row, column]
            log_p = model.law.log_probs(theta, k[:, row, column], 0)
            chosen = draw(log_p, u[:, row, column])
            k[:, row, column, 0] = chosen
            x[:, row, column, 0] = 2.0 * chosen - 1

    return paint


def sampling(args: argparse.Namespace) -> None:
    """Cached against naive."""
    rows = []
    for name in args.models:
        model = build(name, SPEC).eval()
        assert isinstance(model, AutoregressiveModel)
        calls = {
            "cached": lambda model=model: model.sample(args.batch),
            "naive": looked_at(model, args.batch, args.looks),
        }
        found = interleaved(calls, args.rounds, seconds=0)
        naive = [seconds * SIZE * SIZE / args.looks for seconds in found["naive"]]
        cached = found["cached"]
        parameters = sum(p.numel() for p in model.parameters())
        row = f"{parameters:,}", f"{statistics.median(naive):.1f}"
        rows.append((name, *row, f"{statistics.median(cached):.2f}", ratio(naive, cached)))
    show(
        f"sampling, batch {args.batch}, {torch.get_num_threads()} threads, {args.rounds} rounds, "
        f"{args.looks} of {SIZE * SIZE} looks timed",
        ("", "parameters", "naive s", "cached s", "cached is so many times as fast"),
        rows,
    )


class Plain(nn.Module):
    """A convolution in the place of a masked one, of the same features.

    Args:
        like: the masked one.
        square: whether the kernel gets the rows below the pixel, as it mostly has.
    """

    def __init__(self, like: CausalConv2d, square: bool) -> None:
        super().__init__()
        outs, ins, rows, columns = like.weight.shape
        below = rows - 1 if square else 0
        self.pad = like.left, like.right, rows - 1, below
        self.layer = nn.Conv2d(ins, outs, (rows + below, columns))

    def forward(self, x: Tensor, walk: None = None) -> Tensor:
        """NCHW, channels-last."""
        return self.layer(F.pad(x, self.pad) if any(self.pad) else x)


class PlainBlock(nn.Module):
    """PixelCNN's block of plain convolutions."""

    def __init__(self, like: Block, square: bool) -> None:
        super().__init__()
        layers = (Plain(layer, square) for layer in (like.reduce, like.conv, like.expand))
        self.reduce, self.conv, self.expand = layers

    def forward(self, x: Tensor) -> Tensor:
        """As PixelCNN's, without masks."""
        return x + self.expand(self.conv(self.reduce(x.relu()).relu_()).relu_())


class PlainPixelCNN(nn.Module):
    """PixelCNN's network of plain convolutions."""

    def __init__(self, like: PixelCNN, square: bool) -> None:
        super().__init__()
        network = like.network
        assert isinstance(network, Network)
        self.conv_in = Plain(network.conv_in, square)
        self.blocks = nn.ModuleList(
            PlainBlock(block, square) for block in network.blocks if isinstance(block, Block)
        )
        self.top, self.conv_out = Plain(network.top, square), Plain(network.conv_out, square)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor) -> Tensor:
        """As PixelCNN's, without masks."""
        h = self.conv_in(x)
        for block in self.blocks:
            h = block(h)
        return self.conv_out(self.top(h.relu_()).relu_())


def both_passes(network: nn.Module, *inputs: Tensor | None) -> Call:
    """Forward, and backward to the weights."""

    def passes() -> None:
        network.zero_grad()
        network(*inputs).square().sum().backward()

    return passes


def masks(args: argparse.Namespace) -> None:
    """Masked convolutions against plain ones."""
    model = build("pixelcnn", SPEC)
    assert isinstance(model, PixelCNN)
    x = torch.rand(args.batch, SIZE, SIZE, 1).round() * 2 - 1
    first = x.permute(0, 3, 1, 2)
    same, square = PlainPixelCNN(model, square=False), PlainPixelCNN(model, square=True)
    calls = {
        "plain, kernels of the same shape": both_passes(same, first),
        "plain, square kernels": both_passes(square, first),
        "PixelCNN": both_passes(model.network, x, None),
    }
    found = interleaved(calls, args.rounds, args.seconds)
    table(f"masks, batch {args.batch}, {args.rounds} rounds", found)


def recurrent(h: int, batch: int) -> dict[str, Call]:
    """Forward and backward passes of both, with states of h features."""
    steps, scan = 2 * SIZE - 1, diagonals(SIZE, SIZE)
    gates = torch.randn(batch, SIZE * SIZE, 2, 4 * h, requires_grad=True)
    weight = (torch.randn(2, 2, h, 4 * h) / (2 * h**0.5)).requires_grad_()
    lstm = nn.LSTM(h, h, bidirectional=True)
    x = torch.randn(steps, round(batch * SIZE * SIZE / steps), h, requires_grad=True)

    def diagonal() -> None:
        states = Recurrence.apply(gates, weight, scan)
        assert isinstance(states, Tensor)
        torch.autograd.grad(states.sum(), (gates, weight))

    def torchs() -> None:
        torch.autograd.grad(lstm(x)[0].sum(), (x, *lstm.parameters()))

    return {"nn.LSTM": torchs, "Diagonal BiLSTM": diagonal}


def recurrence(args: argparse.Namespace) -> None:
    """The Diagonal BiLSTM against nn.LSTM."""
    for h in args.h:
        found = interleaved(recurrent(h, args.batch), args.rounds, args.seconds)
        table(f"recurrence, h = {h}, batch {args.batch}, {args.rounds} rounds", found)


QUESTIONS = {"training": training, "sampling": sampling, "masks": masks, "recurrence": recurrence}


def main() -> None:
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("questions", nargs="*", default=list(QUESTIONS), metavar="QUESTION")
    parser.add_argument("--models", nargs="+", choices=FAMILY, default=FAMILY)
    parser.add_argument("--batch", type=int, default=64, help="pictures")
    parser.add_argument("--looks", type=int, default=SIZE * SIZE, help="of the naive loop, timed")
    parser.add_argument("--h", type=int, nargs="+", default=[16, 32, 64], help="of the recurrence")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves it to torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one turn, at least")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for question in args.questions:
        if question not in QUESTIONS:
            parser.error(f"questions are {', '.join(QUESTIONS)}, not '{question}'")
        torch.manual_seed(0)
        QUESTIONS[question](args)


if __name__ == "__main__":
    main()
