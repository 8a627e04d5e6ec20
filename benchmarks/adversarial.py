"""How near do the GANs' training steps come to the rate of a convolution alone?

    python benchmarks/adversarial.py --threads 1
    python benchmarks/adversarial.py wgan-gp-mnist biggan-mnist --dtypes bfloat16 --rounds 5

Each recipe trains as `limner train` would, from the picture's number to the optimisers' steps. The
convolution with most weights that a step computes is then timed alone, forward and backward, at its
batch, resolution, type and memory layout; both take turns, and medians over the rounds are printed.
Seconds are those that this process computes, so that other programs disturb little.

How to read it:

    GFLOP/img   what a picture costs in all moves of both players, regularisation included
    img/s       pictures a second, over steps enough for every lazy move to come
    GFLOP/s     img/s times GFLOP/img
    conv        GFLOP/s of that convolution alone
    of conv     GFLOP/s over conv: what is not lost to everything else
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from timing import Call, interleaved, show
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from limner.runtime.allocator import keep_freed_memory
from limner.training.estimate import count_flops
from limner.training.loop import Loop
from limner.training.recipe import Recipe
from limner.training.run import open_stream

RECIPES = Path(__file__).parents[1] / "recipes" / "gans"
NAMES = ("gan-mnist", "wgan-gp-mnist", "stylegan2-emoji32", "biggan-mnist")
STEPS = 16  # from one lazy move to the next, at most


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


def compare(name: str, dtype: str, rounds: int, seconds: float) -> tuple[str, ...]:
    """A row of the table."""
    recipe = Recipe.read(RECIPES / f"{name}.toml", [f"train.dtype={dtype}"] if dtype else [])
    stream, options = open_stream(recipe), recipe.options()
    loop = Loop(recipe.build(stream.dataset.spec), stream.batch, options)
    loop.prepare()

    def steps() -> None:
        for _ in range(STEPS):
            loop.advance()

    with count_flops() as counter:
        steps()
    with Convolutions(loop.model) as seen:
        loop.advance()
    convolution, convolution_flops = alone(seen.given)
    calls = {"steps": steps, "alone": convolution}
    found = interleaved(calls, rounds, seconds, time.process_time)
    images = STEPS * options.batch * loop.model.batches_per_round
    rate = images / statistics.median(found["steps"])
    peak = convolution_flops / statistics.median(found["alone"])
    each = counter.get_total_flops() / images
    wide = "x".join(str(side) for side in seen.given[1].shape)
    cells = (f"{each / 1e9:.4f}", f"{rate:.0f}", f"{rate * each / 1e9:.1f}", f"{peak / 1e9:.1f}")
    return name, options.dtype, str(options.batch), *cells, f"{rate * each / peak:.0%}", wide


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
    columns = ("recipe", "type", "batch", "GFLOP/img", "img/s", "GFLOP/s", "conv", "of conv", "it")
    show(f"{torch.get_num_threads()} threads, {args.rounds} rounds", columns, rows)


if __name__ == "__main__":
    main()
