"""How fast does each family train and paint, and how near is that to a convolution's rate?

    python benchmarks/speed.py --threads 1
    python benchmarks/speed.py wgan-gp-mnist biggan-mnist --dtypes bfloat16 --rounds 5

Each recipe trains as `limner train` would, from the picture's number to the optimisers' steps, and
paints as `limner sample` does, with its sampler, in the same type. The convolution with most
weights that a step computes is then timed alone, forward and backward, at its batch, resolution,
type and memory layout. All take turns, and medians over the rounds are printed. Seconds are those
that this process computes, so that other programs disturb little.

How to read it:

    GFLOP/img   what a picture costs in all moves of all players, regularisation included
    img/s       pictures a second, over steps enough for every lazy move to come
    conv        GFLOP/s of that convolution alone
    of conv     img/s times GFLOP/img over conv: what is not lost to everything else
    GFLOP       what a painted picture costs; paintings are of one batch
    paints      pictures painted a second, and their share of the rate of that convolution

The rate of a convolution depends on its channels and places: shares compare a recipe with what the
machine could do for it, not one recipe with another.
"""

import argparse
import copy
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from timing import Call, interleaved, show
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from limner.contract.model import GenerativeModel
from limner.nn.precision import autocast
from limner.runtime.allocator import keep_freed_memory
from limner.training.estimate import count_flops
from limner.training.loop import Loop
from limner.training.recipe import Recipe
from limner.training.run import open_stream

RECIPES = Path(__file__).parents[1] / "recipes"
NAMES = (
    "pixelcnn-mnist", "gated-pixelcnn-mnist", "pixelcnnpp-mnist", "pixelrnn-row-mnist",
    "pixelrnn-diagonal-mnist", "autoencoder-mnist", "vae-mnist", "nvae-mnist", "gan-mnist",
    "wgan-gp-mnist", "r3gan-mnist", "biggan-mnist", "stylegan2-emoji32", "drifting-mnist",
    "gigagan-scenes64", "realnvp-mnist", "glow-mnist", "flow-matching-mnist", "ddpm-mnist",
    "edm-mnist", "vdm-mnist", "shortcut-mnist", "meanflow-mnist",
)  # fmt: skip
PAINTED = 16  # pictures at once


class Convolutions(TorchDispatchMode):
    """Remembers the convolution with most weights.

    Args:
        model: whose weights they are, for gradients are computed by convolutions, too.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.given: tuple[Any, ...] = ()
        self.shapes = {p.shape for p in model.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        own = func is torch.ops.aten.convolution.default and args[1].shape in self.shapes
        if own and (not self.given or args[1].numel() > self.given[1].numel()):
            self.given = args
        return func(*args, **kwargs or {})


def alone(given: tuple[Any, ...]) -> tuple[Call, float]:
    """A forward and a backward pass of a convolution of such arguments, and their FLOPs."""
    x, weight = (torch.randn_like(part).requires_grad_() for part in given[:2])
    rest = given[3:]  # stride, padding, dilation, transposed, ...

    def forward() -> Tensor:
        return torch.ops.aten.convolution.default(x, weight, None, *rest)

    g = torch.randn_like(forward())
    places = (x if rest[3] else g)[:, 0].numel()
    return lambda: torch.autograd.grad(forward(), (x, weight), g), 3 * 2 * weight.numel() * places


def lazy(loop: Loop) -> int:
    """Steps from one coming of the rarest move to the next."""
    options = loop.model.config
    return max([1, *(value for name, value in options.items() if name.endswith("_every"))])


def compare(name: str, dtype: str, rounds: int, seconds: float) -> tuple[str, ...]:
    """A row of the table."""
    (path,) = RECIPES.glob(f"*/{name}.toml")
    recipe = Recipe.read(path, [f"train.dtype={dtype}"] if dtype else [])
    stream, options = open_stream(recipe), recipe.options()
    loop = Loop(recipe.build(stream.dataset.spec), stream.batch, options)
    loop.prepare()
    count = lazy(loop)
    painter = copy.deepcopy(loop.calibrated()).requires_grad_(False)
    assert isinstance(painter, GenerativeModel)

    def steps() -> None:
        for _ in range(count):
            loop.advance()

    def paint() -> None:
        with autocast(painter.device, options.dtype):
            painter.sample(PAINTED, **painter.sampler_options(recipe.sampler))

    with count_flops() as counter:
        steps()
    each = counter.get_total_flops() / (count * options.batch * loop.model.batches_per_round)
    with Convolutions(loop.model) as seen:
        loop.advance()
    with count_flops() as counter:
        paint()
    painting = counter.get_total_flops() / PAINTED
    convolution, convolution_flops = alone(seen.given)
    calls = {"steps": steps, "paint": paint, "alone": convolution}
    found = {
        of: statistics.median(times)
        for of, times in interleaved(calls, rounds, seconds, time.process_time).items()
    }
    rate = count * options.batch * loop.model.batches_per_round / found["steps"]
    painted, peak = PAINTED / found["paint"], convolution_flops / found["alone"]
    return (
        *(name, options.dtype, str(options.batch), f"{each / 1e9:.3f}", f"{rate:.3g}"),
        *(f"{peak / 1e9:.0f}", f"{rate * each / peak:.0%}"),
        *(f"{painting / 1e9:.3f}", f"{painted:.3g}", f"{painted * painting / peak:.0%}"),
        "x".join(str(side) for side in seen.given[1].shape),
    )


def main() -> None:
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=NAMES, help="names of recipes")
    dtypes = ("float32", "bfloat16")
    parser.add_argument("--dtypes", nargs="+", choices=dtypes, help="in place of the recipe's")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0 leaves it to torch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one turn, at least")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()  # as `limner train` does
    rows = [
        compare(name, dtype, args.rounds, args.seconds)
        for name in args.recipes
        for dtype in args.dtypes or ("",)
    ]
    columns = (
        *("recipe", "type", "batch", "GFLOP/img", "img/s", "conv", "of conv"),
        *("GFLOP", "paints", "of conv", "it"),
    )
    show(f"{torch.get_num_threads()} threads, {args.rounds} rounds", columns, rows)


if __name__ == "__main__":
    main()
