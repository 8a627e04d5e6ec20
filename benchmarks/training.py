"""How fast is training, compared with diffusers and denoising-diffusion-pytorch?

    pip install "limner[bench]"
    python benchmarks/training.py
    python benchmarks/training.py --sizes 32 --dtypes float32 --compile --rounds 15

Each trains a denoiser of unlabelled RGB pictures as its own documentation does, on the same batch,
which is in memory:

    limner      `Loop.advance` of the model "ddpm": channels-last, AdamW, averaged weights
    diffusers   `UNet2DModel`, `DDPMScheduler.add_noise`, MSE, gradient clipping, AdamW
    ddp         denoising-diffusion-pytorch: `Unet` in `GaussianDiffusion`, gradient clipping, Adam,
                weights averaged every tenth step

The peers' widths are chosen so that the forward and backward passes of one picture need as many
FLOPs as limner's, to 5 %, as counted by torch's `FlopCounterMode`. The three take turns,
A B C A B C; medians over the rounds are printed. If other programs run at the same time, two
threads wait for each other: use --threads 1, or check how far the ratios spread.

How to read it:

    GFLOP/img   forward and backward passes of one picture
    img/s       pictures per second, in whole training steps
    limner is   how many times as fast as this row limner is: median (smallest-largest of the
                rounds)
    GFLOP/s     img/s times GFLOP/img
    conv        GFLOP/s of the network's widest 3 x 3 convolution alone, forward and backward, with
                the same batch, resolution, type and memory layout, in the same rounds
    of conv     GFLOP/s divided by conv: the share that is not lost to everything else
"""

import bisect
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timing import Call, count, options_parser, positive, ratio, show, time_interleaved
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from limner import Batch, Condition, ImageSpec, build
from limner.diffusion.ddpm import DDPM
from limner.training.loop import Loop, TrainOptions

CHANNELS = 3
TOLERANCE = 0.05
GROWTHS = (2.0, 1.75, 2.25, 1.5, 2.5)  # factors of the width from one resolution to the next
Widths = tuple[int, ...]


@dataclass(frozen=True)
class Setting:
    """Settings that all three contestants share."""

    size: int
    batch: int
    dtype: Literal["float32", "bfloat16"]
    compile: bool
    device: str
    channels: Widths

    @property
    def pictures(self) -> Tensor:
        """A random batch in [-1, 1]."""
        return torch.rand(self.batch, CHANNELS, self.size, self.size, device=self.device) * 2 - 1

    def autocast(self) -> torch.autocast:
        """Return the context in which networks compute in the type."""
        half = self.dtype == "bfloat16"
        return torch.autocast(self.device, torch.bfloat16, enabled=half)

    def finish(self) -> None:
        """Wait until the device has finished."""
        if self.device == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Contestant:
    """A training step, the cost of its network, and the convolution that it is compared with."""

    step: Call
    widths: str
    flops: float
    convolution: Call
    convolution_flops: float


def count_flops(network: nn.Module, inputs: tuple) -> float:
    """Return the FLOPs of the forward and backward passes. On the device "meta", nothing is
    computed.
    """
    with FlopCounterMode(display=False) as counter:
        network(*inputs).sum().backward()
    return counter.get_total_flops()


def matched_widths(
    make: Callable[[Widths], nn.Module],
    inputs: tuple,
    flops: float,
    levels: int,
    growths: Sequence[float] = GROWTHS,
) -> tuple[Widths, float]:
    """Return the widths of a network with about this many FLOPs, and its FLOPs. Widths are
    multiples of 8 if possible.
    """
    for unit in (8, 4, 2):
        for growth in growths:

            def widths_at(w: int, unit: int = unit, growth: float = growth) -> tuple[Widths, float]:
                widths = tuple(unit * round(w * growth**i) for i in range(levels))
                return widths, count_flops(make(widths), inputs)

            w = bisect.bisect_left(range(256), flops, lo=1, key=lambda w: widths_at(w)[1])
            for widths, network_flops in (widths_at(max(w - 1, 1)), widths_at(w)):
                if abs(network_flops / flops - 1) <= TOLERANCE:
                    return widths, network_flops
    raise SystemExit(
        f"no widths are within {TOLERANCE:.0%} of {flops:.2e} FLOPs; pass other --channels"
    )


def widest_convolution(network: nn.Module, run: Call) -> tuple[nn.Conv2d, torch.Size]:
    """Return the 3 x 3 convolution with the largest product of input and output channels, and the
    shape of its input.
    """
    calls = list[tuple[nn.Conv2d, torch.Size]]()

    def note(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv2d)
        calls.append((layer, args[0].shape))

    hooks = [
        m.register_forward_pre_hook(note)
        for m in network.modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    ]
    run()
    for hook in hooks:
        hook.remove()
    return max(calls, key=lambda call: call[0].in_channels * call[0].out_channels)


def convolution_call(
    layer: nn.Conv2d, shape: torch.Size, layout: torch.memory_format, setting: Setting
) -> tuple[Call, float]:
    """Return a call of the forward and backward passes of a convolution like this one, and their
    FLOPs.
    """
    dtype = getattr(torch, setting.dtype)
    convolution = nn.Conv2d(layer.in_channels, layer.out_channels, 3, bias=False)
    convolution.stride, convolution.padding = layer.stride, layer.padding
    convolution.to(setting.device, dtype).to(memory_format=layout)  # pyright: ignore
    x = torch.randn(shape, device=setting.device, dtype=dtype).to(memory_format=layout)
    x.requires_grad_()
    gradient = torch.randn_like(convolution(x))

    def passes() -> None:
        torch.autograd.grad(convolution(x), (x, convolution.weight), gradient)
        setting.finish()

    multiplications = layer.in_channels * layer.out_channels * 9 * gradient[:, 0].numel()
    return passes, 3 * 2 * multiplications  # output, input gradient, weight gradient


def make_contestant(
    network: nn.Module, step: Call, widths: Widths, flops: float, setting: Setting
) -> Contestant:
    layout = next(
        torch.channels_last if is_channels_last(p) else torch.contiguous_format
        for p in network.parameters()
        if p.ndim == 4 and p.shape[-1] == 3
    )
    passes, convolution_flops = convolution_call(
        *widest_convolution(network, step), layout, setting
    )
    if setting.compile:
        network.compile()
    return Contestant(step, str(widths), flops, passes, convolution_flops)


def is_channels_last(p: Tensor) -> bool:
    return p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()


def limner_contestant(setting: Setting) -> Contestant:
    spec = ImageSpec(CHANNELS, setting.size, setting.size)
    model = build("ddpm", spec, channels=setting.channels)
    batch = Batch(setting.pictures, Condition())
    options = TrainOptions(steps=10**6, batch=setting.batch, dtype=setting.dtype)
    loop = Loop(model, lambda first, n: batch.rows(slice(0, n)), options, setting.device)

    def step() -> None:
        loop.advance()
        setting.finish()

    with torch.device("meta"):
        twin = build("ddpm", spec, channels=setting.channels)
        assert isinstance(model, DDPM) and isinstance(twin, DDPM)
        x = torch.randn(1, CHANNELS, setting.size, setting.size)
        flops = count_flops(twin.network, (x, torch.rand(1), Condition()))
    return make_contestant(model.network, step, setting.channels, flops, setting)


def diffusers_contestant(setting: Setting, flops: float) -> Contestant:
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    class Network(UNet2DModel):
        def forward(self, *args: Any, **options: Any) -> Any:
            return super().forward(*args, **options, return_dict=False)[0]

    levels = len(setting.channels)
    down_blocks = ("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",)

    def make(widths: Widths) -> nn.Module:
        return Network(
            sample_size=setting.size,
            block_out_channels=widths,
            layers_per_block=1,
            down_block_types=down_blocks,
            up_block_types=tuple(block.replace("Down", "Up") for block in reversed(down_blocks)),
            norm_num_groups=math.gcd(32, *widths),
        )

    with torch.device("meta"):
        x = torch.randn(1, CHANNELS, setting.size, setting.size)
        widths, network_flops = matched_widths(make, (x, torch.zeros(1)), flops, levels)
    network = make(widths).to(setting.device)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    pictures = setting.pictures

    def step() -> None:
        noise = torch.randn_like(pictures)
        t: Any = torch.randint(0, 1000, (setting.batch,), device=setting.device)
        with setting.autocast():
            predicted = network(scheduler.add_noise(pictures, noise, t), t)
            loss = F.mse_loss(predicted.float(), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return make_contestant(network, step, widths, network_flops, setting)


def ddp_contestant(setting: Setting, flops: float) -> Contestant:
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    def make(widths: Widths) -> nn.Module:
        return Unet(widths[0], dim_mults=tuple(width // widths[0] for width in widths))

    with torch.device("meta"):
        x = torch.randn(1, CHANNELS, setting.size, setting.size)
        levels = len(setting.channels)
        widths, network_flops = matched_widths(
            make, (x, torch.zeros(1)), flops, levels, growths=(2.0,)
        )
    network = make(widths)
    diffusion = GaussianDiffusion(network, image_size=setting.size, objective="pred_noise")
    diffusion = diffusion.to(setting.device)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
    average = EMA(diffusion, beta=0.995, update_every=10).to(setting.device)
    pictures = (setting.pictures + 1) / 2

    def step() -> None:
        with setting.autocast():
            loss = diffusion(pictures)
        loss.backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        loss.item()

    return make_contestant(network, step, widths, network_flops, setting)


def compare(setting: Setting, rounds: int, seconds: float) -> None:
    """Time the three and the convolutions in turns, and print the table."""
    limner = limner_contestant(setting)
    peers = {
        "diffusers": diffusers_contestant(setting, limner.flops),
        "ddp": ddp_contestant(setting, limner.flops),
    }
    contestants = {"limner": limner} | peers
    calls = {name: c.step for name, c in contestants.items()}
    calls |= {f"conv of {name}": c.convolution for name, c in contestants.items()}
    seconds_of = time_interleaved(calls, rounds, seconds)
    rows = []
    for name, c in contestants.items():
        times, conv_times = seconds_of[name], seconds_of[f"conv of {name}"]
        rate = setting.batch / statistics.median(times)
        peak = c.convolution_flops / statistics.median(conv_times)
        rows.append(
            (
                name,
                c.widths,
                f"{c.flops / 1e9:.3f}",
                f"{rate:.0f}",
                ratio(times, seconds_of["limner"]),
                f"{rate * c.flops / 1e9:.0f}",
                f"{peak / 1e9:.0f}",
                f"{rate * c.flops / peak:.0%}",
            )
        )
    compiled = ", compiled" if setting.compile else ""
    show(
        f"{setting.size} x {setting.size}, batch {setting.batch}, {setting.dtype}{compiled}, "
        f"{setting.device}, {torch.get_num_threads()} threads, {rounds} rounds",
        ("", "widths", "GFLOP/img", "img/s", "limner is", "GFLOP/s", "conv", "of conv"),
        rows,
    )


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument(
        "--sizes", type=count, nargs="+", default=[16, 32], help="sides of the pictures in pixels"
    )
    parser.add_argument("--batch", type=count, default=64, help="pictures per step")
    dtypes = ("float32", "bfloat16")
    parser.add_argument("--dtypes", nargs="+", choices=dtypes, default=dtypes)
    parser.add_argument(
        "--channels", type=count, nargs="+", default=[64, 128], help="limner's widths"
    )
    parser.add_argument("--compile", action="store_true", help="compile all networks")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=count, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=count, default=7)
    parser.add_argument(
        "--seconds", type=positive, default=1.5, help="approximate seconds of one turn"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for size in args.sizes:
        for dtype in args.dtypes:
            torch.manual_seed(0)
            channels = tuple(args.channels)
            setting = Setting(size, args.batch, dtype, args.compile, args.device, channels)
            compare(setting, args.rounds, args.seconds)


if __name__ == "__main__":
    main()
