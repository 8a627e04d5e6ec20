"""How fast is a training step of `cyclegan`, compared with its authors' class, with equal networks?

    git clone https://github.com/taesungp/contrastive-unpaired-translation
    python benchmarks/translation.py contrastive-unpaired-translation

That repository of CycleGAN's authors contains the class `CycleGANModel`, like
pytorch-CycleGAN-and-pix2pix; neither is in a package index. Both sides use the same pictures and
make the same steps, with the same batch: generators and critics of the same widths and depths,
least squares, cycle and identity losses, a pool of 50, Adam. limner's step includes what its loop
adds: random streams, gradient norms, averaged weights. Each runs in its own process, as in a real
training: limner's keeps freed memory, as `limner train` does, and the authors' uses the default
settings of the allocator. Seconds are those that the process computes.
"""

import itertools
import statistics
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from timing import Call, count, options_parser, positive, ratio, show, time_in_processes
from torch import Tensor, nn

from limner.contract.image import Batch, Condition, ImageSpec
from limner.gans.cyclegan import CycleGAN
from limner.runtime.allocator import keep_freed_memory
from limner.training.loop import Loop
from limner.training.options import TrainOptions

BLOCKS = 6  # residual blocks of a generator


def pictures(side: int, batch: int) -> Tensor:
    """Return the same random pictures in both processes: first those of B, then those of A."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2 * batch, 3, side, side, generator=generator) * 2 - 1


def limner_step(side: int, channels: int, batch: int, layers: int) -> Call:
    """Return a training step of limner's loop."""
    keep_freed_memory()
    x = pictures(side, batch)
    spec = ImageSpec(3, side, side, hint=ImageSpec(3, side, side))
    model = CycleGAN(spec, channels, BLOCKS, critic_channels=channels, critic_layers=layers)
    options = TrainOptions(batch=batch, optimizer="adam", lr=2e-4, betas=(0.5, 0.999))
    loop = Loop(model, lambda first, n: Batch(x[:n], Condition(image=x[n:])), options)
    return loop.advance


def authors_step(side: int, channels: int, batch: int, layers: int, repository: Path) -> Call:
    """Return the authors' `optimize_parameters`."""
    sys.path.insert(0, str(repository))
    x = pictures(side, batch)
    from models import networks  # pyright: ignore[reportMissingImports]
    from models.cycle_gan_model import CycleGANModel  # pyright: ignore[reportMissingImports]
    from util.image_pool import ImagePool  # pyright: ignore[reportMissingImports]

    norm = partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)
    model: Any = CycleGANModel.__new__(CycleGANModel)
    model.opt = SimpleNamespace(lambda_identity=0.5, lambda_A=10.0, lambda_B=10.0, amp=False)
    for name in ("netG_A", "netG_B"):
        network = networks.ResnetGenerator(
            3, 3, channels, norm, n_blocks=BLOCKS, no_antialias=True, no_antialias_up=True
        )
        networks.init_weights(network)
        setattr(model, name, network)
    for name in ("netD_A", "netD_B"):
        network = networks.NLayerDiscriminator(3, channels, layers, norm, no_antialias=True)
        networks.init_weights(network)
        setattr(model, name, network)
    model.criterionGAN = networks.GANLoss("lsgan")
    model.criterionCycle = model.criterionIdt = nn.L1Loss()
    model.fake_A_pool, model.fake_B_pool = ImagePool(50), ImagePool(50)
    generator_parameters = itertools.chain(model.netG_A.parameters(), model.netG_B.parameters())
    critic_parameters = itertools.chain(model.netD_A.parameters(), model.netD_B.parameters())
    model.optimizer_G = torch.optim.Adam(generator_parameters, lr=2e-4, betas=(0.5, 0.999))
    model.optimizer_D = torch.optim.Adam(critic_parameters, lr=2e-4, betas=(0.5, 0.999))
    model.real_B, model.real_A = x.chunk(2)
    return model.optimize_parameters


def main() -> None:
    """Print a row for each size."""
    parser = options_parser(__doc__)
    parser.add_argument("repository", type=Path, help="checkout of the authors' code")
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument(
        "--seconds", type=positive, default=1.0, help="approximate seconds of one turn"
    )
    parser.add_argument("--cases", nargs="+", default=["64x16x4x2", "128x32x1x3"],
                        help="side x channels x batch x layers of the critic")  # fmt: skip
    args = parser.parse_args()
    if not (args.repository / "models" / "cycle_gan_model.py").exists():
        parser.error(
            f"{args.repository} has no models/cycle_gan_model.py; clone "
            "https://github.com/taesungp/contrastive-unpaired-translation, and give its folder"
        )
    torch.set_num_threads(args.threads)
    rows: list[list[str]] = []
    makers = {"limner": limner_step, "authors": partial(authors_step, repository=args.repository)}
    for case in args.cases:
        sizes = [*map(int, case.split("x"))]
        seconds = time_in_processes(makers, sizes, args.rounds, args.seconds)
        limner, authors = (seconds[name] for name in makers)
        medians = (f"{statistics.median(times):.3f}" for times in (limner, authors))
        rows.append([case, *medians, ratio(authors, limner)])
    show("seconds per step", ["case", "limner", "authors", "times as fast"], rows)


if __name__ == "__main__":
    main()
