"""What do masks cost, what do caches save, and how fast do autoregressive models train and paint?

    python benchmarks/autoregressive.py
    python benchmarks/autoregressive.py sampling --models pixelcnn gated-pixelcnn --looks 20
    python benchmarks/autoregressive.py masks recurrence --threads 1 --rounds 15

It answers four questions. All use pictures of 28 x 28 with one channel of two levels, and networks
with random weights, in float32 unless stated otherwise:

    training      whole training steps of each model with its recipe for binarised MNIST, including
                  the recipe's batch and bfloat16, and painting in float32; in seconds that the
                  process computes, so that other programs do not count
    sampling      `sample`, compared with a loop that evaluates the network on the whole picture
                  before each value, as most code does; both paint the same pictures from the same
                  uniform numbers
    masks         the forward and backward passes of a training step of PixelCNN's network, compared
                  with plain stacks of `nn.Conv2d`, channels-last, with as many layers and features:
                  one with kernels of the same shape, without masks, and one with square kernels,
                  the usual way to implement masks
    recurrence    the forward and backward passes of the Diagonal BiLSTM's recurrence, compared with
                  a bidirectional `nn.LSTM` with the same number of sequential steps, 2 N - 1, and
                  the same FLOPs: as many states in total, and as many inputs as ours reads states
                  through its second tap

How to read it: seconds are medians over the rounds, in which the contestants take turns; `ratio`
is the time relative to the first row: median (smallest-largest of the rounds). `speed-up` says how
many times as fast as the naive loop the cached one is. The naive loop is timed at --looks of the
pixels, evenly spread, and its time is scaled to all of them, because each pixel costs one
evaluation of the network on the whole picture.
"""

import argparse
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import Call, count, options_parser, positive, ratio, show, time_interleaved
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
FAMILY = [name for name, entry in models().items() if entry.family == "autoregressive"]


def show_times(title: str, seconds: Mapping[str, list[float]]) -> None:
    """Print the median seconds, and their ratios to the first row."""
    first = next(iter(seconds.values()))
    rows = [
        (name, f"{statistics.median(times):.4f}", ratio(times, first))
        for name, times in seconds.items()
    ]
    show(f"{title}, {torch.get_num_threads()} threads", ("", "seconds", "ratio"), rows)


def training_step(recipe: Recipe) -> tuple[AutoregressiveModel, Call]:
    """Return a recipe's model and a call that makes a training step on one fixed batch."""
    model, options = recipe.build(SPEC), recipe.options()
    assert isinstance(model, AutoregressiveModel)
    batch = Batch(torch.rand(options.batch, 1, SIZE, SIZE).round() * 2 - 1, Condition())
    loop = Loop(model, lambda first, n: batch, options)
    loop.prepare()
    return model, loop.advance


def training(args: argparse.Namespace) -> None:
    """Print the pictures per second that each model trains on, and the seconds of painting."""
    rows = []
    for name in args.models:
        recipe = Recipe.read(RECIPES / f"{name}-mnist-binary.toml")
        model, step = training_step(recipe)
        calls = {"step": step, "paint": lambda model=model: model.sample(args.batch)}
        seconds = time_interleaved(calls, args.rounds, seconds=0, clock=time.process_time)
        step_seconds, paint = (
            statistics.median(seconds["step"]),
            statistics.median(seconds["paint"]),
        )
        batch = recipe.options().batch
        row = (
            f"{model.parameter_count():,}",
            f"{batch}",
            f"{batch / step_seconds:.0f}",
            f"{paint:.2f}",
        )
        rows.append((name, *row))
    show(
        f"training, {torch.get_num_threads()} threads, {args.rounds} rounds",
        ("", "parameters", "batch", "trains, pictures/s", f"paints {args.batch}, s"),
        rows,
    )


def naive_loop(model: AutoregressiveModel, batch: int, evaluations: int) -> Call:
    """Return the naive loop at some pixels: run the network on the whole picture, draw a value."""
    x = torch.zeros(batch, SIZE, SIZE, 1)
    k = torch.zeros(batch, SIZE, SIZE, 1, dtype=torch.int64)
    u = torch.rand(batch, SIZE, SIZE)
    pixels = [i * SIZE * SIZE // evaluations for i in range(evaluations)]

    @torch.no_grad()
    def paint() -> None:
        for row, column in (divmod(pixel, SIZE) for pixel in pixels):
            theta = model.network(x, None)[:, row, column]
            log_p = model.law.log_probs(theta, k[:, row, column], 0)
            value = draw(log_p, u[:, row, column])
            k[:, row, column, 0] = value
            x[:, row, column, 0] = 2.0 * value - 1

    return paint


def sampling(args: argparse.Namespace) -> None:
    """Compare cached with naive sampling."""
    rows = []
    for name in args.models:
        model = build(name, SPEC).eval()
        assert isinstance(model, AutoregressiveModel)
        calls = {
            "cached": lambda model=model: model.sample(args.batch),
            "naive": naive_loop(model, args.batch, args.looks),
        }
        seconds = time_interleaved(calls, args.rounds, seconds=0)
        naive = [each * SIZE * SIZE / args.looks for each in seconds["naive"]]
        cached = seconds["cached"]
        parameters = sum(p.numel() for p in model.parameters())
        row = f"{parameters:,}", f"{statistics.median(naive):.1f}"
        rows.append((name, *row, f"{statistics.median(cached):.2f}", ratio(naive, cached)))
    show(
        f"sampling, batch {args.batch}, {torch.get_num_threads()} threads, {args.rounds} rounds, "
        f"{args.looks} of {SIZE * SIZE} evaluations timed",
        ("", "parameters", "naive s", "cached s", "speed-up"),
        rows,
    )


class Plain(nn.Module):
    """A plain convolution in place of a masked one, with the same features.

    Args:
        like: the masked convolution that it replaces.
        square: whether the kernel also has the rows below the pixel, as is usual.
    """

    def __init__(self, conv: CausalConv2d, square: bool) -> None:
        super().__init__()
        outs, ins, rows, columns = conv.weight.shape
        below = rows - 1 if square else 0
        self.pad = conv.left, conv.right, rows - 1, below
        self.layer = nn.Conv2d(ins, outs, (rows + below, columns))

    def forward(self, x: Tensor, walk: None = None) -> Tensor:
        """Return the convolution of x; both are NCHW, channels-last."""
        return self.layer(F.pad(x, self.pad) if any(self.pad) else x)


class PlainBlock(nn.Module):
    """PixelCNN's block with plain convolutions."""

    def __init__(self, block: Block, square: bool) -> None:
        super().__init__()
        layers = (Plain(layer, square) for layer in (block.reduce, block.conv, block.expand))
        self.reduce, self.conv, self.expand = layers

    def forward(self, x: Tensor) -> Tensor:
        """Compute the same as PixelCNN's block, without masks."""
        return x + self.expand(self.conv(self.reduce(x.relu()).relu_()).relu_())


class PlainPixelCNN(nn.Module):
    """PixelCNN's network with plain convolutions."""

    def __init__(self, model: PixelCNN, square: bool) -> None:
        super().__init__()
        network = model.network
        assert isinstance(network, Network)
        self.conv_in = Plain(network.conv_in, square)
        self.blocks = nn.ModuleList(
            PlainBlock(block, square) for block in network.blocks if isinstance(block, Block)
        )
        self.top, self.conv_out = Plain(network.top, square), Plain(network.conv_out, square)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the same as PixelCNN's network, without masks."""
        h = self.conv_in(x)
        for block in self.blocks:
            h = block(h)
        return self.conv_out(self.top(h.relu_()).relu_())


def forward_backward(network: nn.Module, *inputs: Tensor | None) -> Call:
    """Return a call of the forward pass, and the backward pass to the weights."""

    def passes() -> None:
        network.zero_grad()
        network(*inputs).square().sum().backward()

    return passes


def masks(args: argparse.Namespace) -> None:
    """Compare masked convolutions with plain ones."""
    model = build("pixelcnn", SPEC)
    assert isinstance(model, PixelCNN)
    x = torch.rand(args.batch, SIZE, SIZE, 1).round() * 2 - 1
    x_nchw = x.permute(0, 3, 1, 2)
    same_shape, square = PlainPixelCNN(model, square=False), PlainPixelCNN(model, square=True)
    calls = {
        "plain, kernels of the same shape": forward_backward(same_shape, x_nchw),
        "plain, square kernels": forward_backward(square, x_nchw),
        "PixelCNN": forward_backward(model.network, x, None),
    }
    seconds = time_interleaved(calls, args.rounds, args.seconds)
    show_times(f"masks, batch {args.batch}, {args.rounds} rounds", seconds)


def recurrence_calls(h: int, batch: int) -> dict[str, Call]:
    """Return calls of the forward and backward passes of both, with states of h features."""
    steps, scan = 2 * SIZE - 1, diagonals(SIZE, SIZE)
    gates = torch.randn(batch, SIZE * SIZE, 2, 4 * h, requires_grad=True)
    weight = (torch.randn(2, 2, h, 4 * h) / (2 * h**0.5)).requires_grad_()
    lstm = nn.LSTM(h, h, bidirectional=True)
    x = torch.randn(steps, round(batch * SIZE * SIZE / steps), h, requires_grad=True)

    def diagonal() -> None:
        states = Recurrence.apply(gates, weight, scan)
        assert isinstance(states, Tensor)
        torch.autograd.grad(states.sum(), (gates, weight))

    def torch_lstm() -> None:
        torch.autograd.grad(lstm(x)[0].sum(), (x, *lstm.parameters()))

    return {"nn.LSTM": torch_lstm, "Diagonal BiLSTM": diagonal}


def recurrence(args: argparse.Namespace) -> None:
    """Compare the Diagonal BiLSTM with nn.LSTM."""
    for h in args.h:
        seconds = time_interleaved(recurrence_calls(h, args.batch), args.rounds, args.seconds)
        show_times(f"recurrence, h = {h}, batch {args.batch}, {args.rounds} rounds", seconds)


QUESTIONS = {"training": training, "sampling": sampling, "masks": masks, "recurrence": recurrence}


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("questions", nargs="*", default=list(QUESTIONS), metavar="QUESTION")
    parser.add_argument("--models", nargs="+", choices=FAMILY, default=FAMILY)
    parser.add_argument("--batch", type=count, default=64, help="pictures per batch")
    parser.add_argument(
        "--looks", type=count, default=SIZE * SIZE, help="pixels at which the naive loop is timed"
    )
    parser.add_argument(
        "--h",
        type=count,
        nargs="+",
        default=[16, 32, 64],
        help="widths of the recurrent states",
    )
    parser.add_argument("--threads", type=count, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument(
        "--seconds", type=positive, default=1.0, help="approximate seconds of one turn"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for question in args.questions:
        if question not in QUESTIONS:
            parser.error(f"unknown question '{question}'; choose from {', '.join(QUESTIONS)}")
        torch.manual_seed(0)
        QUESTIONS[question](args)


if __name__ == "__main__":
    main()
