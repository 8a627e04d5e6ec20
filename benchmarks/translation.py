"""A training step of `cyclegan` beside the authors' model class, with equal networks and batch.

    git clone https://github.com/taesungp/contrastive-unpaired-translation
    python benchmarks/translation.py contrastive-unpaired-translation

That repository of CycleGAN's authors has the class `CycleGANModel`, as pytorch-CycleGAN-and-pix2pix
has it; neither is in a package index. Both sides see the same pictures, and take the same steps:
generators and critics of the same widths and depths, least squares, cycle and identity losses, a
pool of 50, Adam. limner's step has what its loop adds: random streams, gradient norms, the average
of the weights. Each is in a process of its own, as a training is: limner's keeps freed memory, as
`limner train` does, and the authors' has the allocator as it comes. Seconds are those that the
process computes.
"""

import argparse
import itertools
import statistics
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from timing import interleaved_apart, ratio, show
from torch import Tensor, nn

from limner.contract.image import Batch, Condition, ImageSpec
from limner.gans.cyclegan import CycleGAN
from limner.runtime.allocator import keep_freed_memory
from limner.training.loop import Loop
from limner.training.options import TrainOptions


def pictures(side: int, batch: int) -> Tensor:
    """The same in both processes: those of B, then those of A."""
    drawn = torch.Generator().manual_seed(0)
    return torch.rand(2 * batch, 3, side, side, generator=drawn) * 2 - 1


def ours(side: int, channels: int, batch: int, layers: int, blocks: int) -> Any:
    """A step of the loop."""
    keep_freed_memory()
    x = pictures(side, batch)
    spec = ImageSpec(3, side, side, hint=ImageSpec(3, side, side))
    model = CycleGAN(spec, channels, blocks, channels, layers)
    options = TrainOptions(batch=batch, optimizer="adam", lr=2e-4, betas=(0.5, 0.999))
    loop = Loop(model, lambda first, n: Batch(x[:n], Condition(image=x[n:])), options)
    return loop.advance


def authors(
    side: int, channels: int, batch: int, layers: int, blocks: int, repository: Path
) -> Any:
    """Their `optimize_parameters`."""
    sys.path.insert(0, str(repository))
    x = pictures(side, batch)
    from models import networks  # pyright: ignore[reportMissingImports]
    from models.cycle_gan_model import CycleGANModel  # pyright: ignore[reportMissingImports]
    from util.image_pool import ImagePool  # pyright: ignore[reportMissingImports]

    norm = partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)
    game: Any = CycleGANModel.__new__(CycleGANModel)
    game.opt = SimpleNamespace(lambda_identity=0.5, lambda_A=10.0, lambda_B=10.0, amp=False)
    for name in ("netG_A", "netG_B"):
        made = networks.ResnetGenerator(
            3, 3, channels, norm, n_blocks=blocks, no_antialias=True, no_antialias_up=True
        )
        networks.init_weights(made)
        setattr(game, name, made)
    for name in ("netD_A", "netD_B"):
        made = networks.NLayerDiscriminator(3, channels, layers, norm, no_antialias=True)
        networks.init_weights(made)
        setattr(game, name, made)
    game.criterionGAN = networks.GANLoss("lsgan")
    game.criterionCycle = game.criterionIdt = nn.L1Loss()
    game.fake_A_pool, game.fake_B_pool = ImagePool(50), ImagePool(50)
    of_g = itertools.chain(game.netG_A.parameters(), game.netG_B.parameters())
    of_d = itertools.chain(game.netD_A.parameters(), game.netD_B.parameters())
    game.optimizer_G = torch.optim.Adam(of_g, lr=2e-4, betas=(0.5, 0.999))
    game.optimizer_D = torch.optim.Adam(of_d, lr=2e-4, betas=(0.5, 0.999))
    game.real_B, game.real_A = x.chunk(2)
    return game.optimize_parameters


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path, help="a checkout of the authors' code")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--cases", nargs="+", default=["64x16x4x2", "128x32x1x3"],
                        help="side x channels x batch x layers of the critic")  # fmt: skip
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows: list[list[str]] = []
    makers = {"limner": ours, "authors": partial(authors, repository=given.repository)}
    for case in given.cases:
        sizes = [*map(int, case.split("x")), 6]
        found = interleaved_apart(makers, sizes, given.rounds, given.seconds)
        own, theirs = (found[name] for name in makers)
        medians = (f"{statistics.median(each):.3f}" for each in (own, theirs))
        rows.append([case, *medians, ratio(theirs, own)])
    show("seconds a step", ["case", "limner", "authors", "times as fast"], rows)


if __name__ == "__main__":
    main()
