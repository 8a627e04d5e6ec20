"""How fast does each family train and paint, and how close is that to the rate of a convolution?

    python benchmarks/speed.py --threads 1
    python benchmarks/speed.py wgan-gp-mnist biggan-mnist --dtypes bfloat16 --rounds 5

Each recipe trains as in `limner train`, from the picture's number to the optimisers' steps, and
paints as in `limner sample`, with its sampler, in the same type. The convolution with the most
weights in a step is also timed alone, forward and backward, with its batch, resolution, type and
memory layout. All take turns, and medians over the rounds are printed. Seconds are those that this
process computes, so that other programs have little influence.

How to read it:

    GFLOP/img   cost of a picture in all turns of all players, including regularisation
    img/s       pictures per second, over enough steps to include every lazy turn
    conv        GFLOP/s of that convolution alone
    of conv     img/s times GFLOP/img over conv: the share that is not lost to everything else
    GFLOP       cost of a painted picture; pictures are painted in one batch
    paints      pictures painted per second, and their share of the rate of that convolution

The rate of a convolution depends on its channels and positions. So the shares compare a recipe with
what the machine could do for it, not one recipe with another.
"""

import copy
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from timing import Call, count, options_parser, positive, show, time_interleaved
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from limner.contract.model import GenerativeModel
from limner.nn.precision import autocast
from limner.runtime.allocator import keep_freed_memory
from limner.training.estimate import count_flops
from limner.training.loop import Loop
from limner.training.recipe import Recipe
from limner.training.run import open_stream

RECIPES = {file.stem: file for file in (Path(__file__).parents[1] / "recipes").glob("*/*.toml")}
NAMES = (
    "pixelcnn-mnist", "gated-pixelcnn-mnist", "pixelcnnpp-mnist", "pixelrnn-row-mnist",
    "pixelrnn-diagonal-mnist", "autoencoder-mnist", "vae-mnist", "nvae-mnist", "gan-mnist",
    "wgan-gp-mnist", "r3gan-mnist", "biggan-mnist", "stylegan2-emoji32", "drifting-mnist",
    "gigagan-scenes64", "realnvp-mnist", "glow-mnist", "flow-matching-mnist", "ddpm-mnist",
    "edm-mnist", "vdm-mnist", "shortcut-mnist", "meanflow-mnist",
)  # fmt: skip
N_PAINTED = 16  # pictures in a batch


class LargestConvolution(TorchDispatchMode):
    """A dispatch mode that records the arguments of the convolution with the most weights.

    Args:
        model: model with the weights; other convolutions, which compute gradients, are ignored.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.largest: tuple[Any, ...] = ()
        self.shapes = {p.shape for p in model.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_candidate = func is torch.ops.aten.convolution.default and args[1].shape in self.shapes
        if is_candidate and (not self.largest or args[1].numel() > self.largest[1].numel()):
            self.largest = args
        return func(*args, **kwargs or {})


def convolution_call(args: tuple[Any, ...]) -> tuple[Call, float]:
    """Return both passes of a convolution with these arguments, and their FLOPs."""
    x, weight = (torch.randn_like(part).requires_grad_() for part in args[:2])
    rest = args[3:]  # stride, padding, dilation, transposed, ...

    def forward() -> Tensor:
        return torch.ops.aten.convolution.default(x, weight, None, *rest)

    g = torch.randn_like(forward())
    flops = 3 * 2 * weight.numel() * (x if rest[3] else g)[:, 0].numel()
    return lambda: torch.autograd.grad(forward(), (x, weight), g), flops


def cycle_length(loop: Loop) -> int:
    """Return the number of steps between two of the rarest turns."""
    options = loop.model.config
    return max([1, *(value for name, value in options.items() if name.endswith("_every"))])


def compare(name: str, dtype: str, rounds: int, seconds: float) -> tuple[str, ...]:
    """Measure a recipe; return its row of the table."""
    recipe = Recipe.read(RECIPES[name], [f"train.dtype={dtype}"] if dtype else [])
    stream, options = open_stream(recipe), recipe.options()
    loop = Loop(recipe.build(stream.dataset.spec), stream.batch, options)
    loop.prepare()
    steps_per_call = cycle_length(loop)
    painter = copy.deepcopy(loop.calibrated_model()).requires_grad_(False)
    assert isinstance(painter, GenerativeModel)

    def steps() -> None:
        for _ in range(steps_per_call):
            loop.advance()

    def paint() -> None:
        with autocast(painter.device, options.dtype):
            painter.sample(N_PAINTED, **painter.sampler_options(recipe.sampler))

    with count_flops() as counter:
        steps()
    step_flops = counter.get_total_flops() / (
        steps_per_call * options.batch * loop.model.batches_per_round
    )
    with LargestConvolution(loop.model) as recorder:
        loop.advance()
    with count_flops() as counter:
        paint()
    paint_flops = counter.get_total_flops() / N_PAINTED
    convolution, convolution_flops = convolution_call(recorder.largest)
    calls = {"steps": steps, "paint": paint, "alone": convolution}
    seconds_of = {
        key: statistics.median(times)
        for key, times in time_interleaved(calls, rounds, seconds, time.process_time).items()
    }
    rate = steps_per_call * options.batch * loop.model.batches_per_round / seconds_of["steps"]
    paint_rate, peak = N_PAINTED / seconds_of["paint"], convolution_flops / seconds_of["alone"]
    return (
        *(name, options.dtype, str(options.batch), f"{step_flops / 1e9:.3f}", f"{rate:.3g}"),
        *(f"{peak / 1e9:.0f}", f"{rate * step_flops / peak:.0%}"),
        *(
            f"{paint_flops / 1e9:.3f}",
            f"{paint_rate:.3g}",
            f"{paint_rate * paint_flops / peak:.0%}",
        ),
        "x".join(str(side) for side in recorder.largest[1].shape),
    )


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("recipes", nargs="*", default=NAMES, help="names of the recipes")
    dtypes = ("float32", "bfloat16")
    parser.add_argument(
        "--dtypes", nargs="+", choices=dtypes, help="types to use in place of the recipe's"
    )
    parser.add_argument("--threads", type=count, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument(
        "--seconds", type=positive, default=1.5, help="approximate seconds of one turn"
    )
    args = parser.parse_args()
    for name in args.recipes:
        if name not in RECIPES:
            parser.error(f"unknown recipe '{name}'; `limner recipes` lists all")
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as `limner train` does
    rows = [
        compare(name, dtype, args.rounds, args.seconds)
        for name in args.recipes
        for dtype in args.dtypes or ("",)
    ]
    columns = (
        *("recipe", "type", "batch", "GFLOP/img", "img/s", "conv", "of conv"),
        *("GFLOP", "paints", "of conv", "conv weight"),
    )
    show(f"{torch.get_num_threads()} threads, {args.rounds} rounds", columns, rows)


if __name__ == "__main__":
    main()
