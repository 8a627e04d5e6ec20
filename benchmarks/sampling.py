"""How fast is sampling, beside diffusers' pipeline and denoising-diffusion-pytorch's loop?

    pip install "limner[bench]"
    python benchmarks/sampling.py
    python benchmarks/sampling.py --sizes 32 --steps 50
    python benchmarks/sampling.py --equal networks --threads 1

Each paints a batch of unlabelled RGB pictures with a network of random weights by deterministic
DDIM steps. At equal FLOPs a picture and step (see training.py on how widths are chosen):

    limner      `DDPM.sample(sampler="ddim")`, its network on patches
    diffusers   `DDIMPipeline`, without its progress bar and its conversion to files
    ddp         `GaussianDiffusion.ddim_sample` of denoising-diffusion-pytorch

At equal networks, of the same layers and weights:

    limner      `DDPM.sample(sampler="ddim")` with `model.network=plain`
    diffusers   `DDIMPipeline` with the `UNet2DModel` that `limner export` makes of it

limner keeps freed memory, as the command line does; each peer paints in a process of its own, with
the C library's allocator as it comes.

How to read it: `img/s` are finished pictures a second, medians over the rounds; `limner is` so many
times as fast as this row: median (least-greatest of the rounds); `GFLOP/s` what that is in
arithmetic; `conv` that of the network's widest 3 x 3 convolution alone, forward, at the same batch,
type and memory layout, in the same rounds; `of conv` the first over the second.
"""

import argparse
import math
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from timing import Call, apart, interleaved, ratio, show
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from limner import Condition, ImageSpec, build
from limner.diffusion.ddpm import DDPM
from limner.runtime.allocator import keep_freed_memory
from training import CHANNELS, TOLERANCE, Widths, is_channels_last, matched, widest


class Setting(NamedTuple):
    """What all contestants paint, and in which type."""

    size: int
    batch: int
    steps: int
    dtype: str


def forward_flops(network: nn.Module, inputs: tuple) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return counter.get_total_flops()


def limners(size: int, channels: Widths, network: str = "patches") -> DDPM:
    model = build("ddpm", ImageSpec(CHANNELS, size, size), channels=channels, network=network)
    assert isinstance(model, DDPM)
    return model.eval()


def of_diffusers(size: int, widths: Widths) -> nn.Module:
    from diffusers import UNet2DModel

    down = ("DownBlock2D",) * (len(widths) - 1) + ("AttnDownBlock2D",)
    return UNet2DModel(
        sample_size=size,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=down,
        up_block_types=tuple(block.replace("Down", "Up") for block in reversed(down)),
        norm_num_groups=math.gcd(32, *widths),
    )


def of_ddp(widths: Widths) -> nn.Module:
    from denoising_diffusion_pytorch import Unet

    return Unet(widths[0], dim_mults=tuple(width // widths[0] for width in widths))


class Answer(nn.Module):
    """A network of diffusers whose output is the tensor alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The tensor."""
        return self.network(x, t, return_dict=False)[0]


Painter = tuple[nn.Module, Call]


def painting_limners(channels: Widths, network: str, setting: Setting) -> Painter:
    model = limners(setting.size, channels, network)
    return model.network, lambda: model.sample(setting.batch, sampler="ddim", steps=setting.steps)


def painting_pipeline(unet: nn.Module, setting: Setting) -> Painter:
    from diffusers import DDIMPipeline, DDIMScheduler

    pipeline = DDIMPipeline(unet.eval(), DDIMScheduler(num_train_timesteps=1000))
    pipeline.set_progress_bar_config(disable=True)
    asked: Any = {"num_inference_steps": setting.steps, "output_type": "np"}
    return unet, lambda: pipeline(setting.batch, **asked)


def painting_diffusers(widths: Widths, setting: Setting) -> Painter:
    return painting_pipeline(of_diffusers(setting.size, widths), setting)


def painting_the_same(channels: Widths, setting: Setting) -> Painter:
    unet = limners(setting.size, channels, "plain").to_diffusers().unet
    return painting_pipeline(unet, setting)


def painting_ddp(widths: Widths, setting: Setting) -> Painter:
    from denoising_diffusion_pytorch import GaussianDiffusion

    network = of_ddp(widths)
    diffusion = GaussianDiffusion(
        network, image_size=setting.size, sampling_timesteps=setting.steps, ddim_sampling_eta=0.0
    )
    return network, lambda: diffusion.sample(setting.batch)


def calling(make: Callable[..., Painter], *given: Any) -> Call:
    """What paints a batch, in the setting's type."""
    _, paint = make(*given)
    dtype = getattr(torch, given[-1].dtype)

    def painted() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            paint()

    return painted


@dataclass(frozen=True)
class Contestant:
    """What makes a painter, and what one evaluation of its network for one picture costs."""

    make: Callable[..., Painter]
    given: tuple
    flops: float


def at_equal_flops(channels: Widths, setting: Setting) -> dict[str, Contestant]:
    """The three, on networks of their own."""
    size = setting.size
    x, t = torch.randn(1, CHANNELS, size, size, device="meta"), torch.zeros(1, device="meta")
    with torch.device("meta"):  # `matched` counts forward and backward passes
        own = forward_flops(limners(size, channels).network, (x, t, Condition()))
        levels = len(channels)
        widths, full = matched(lambda w: Answer(of_diffusers(size, w)), (x, t), 3 * own, levels)
        narrow, least = matched(of_ddp, (x, t), 3 * own, levels, growths=(2.0,))
    return {
        "limner": Contestant(painting_limners, (channels, "patches", setting), own),
        "diffusers": Contestant(painting_diffusers, (widths, setting), full / 3),
        "ddp": Contestant(painting_ddp, (narrow, setting), least / 3),
    }


def at_equal_networks(channels: Widths, setting: Setting) -> dict[str, Contestant]:
    """Two with the same layers and weights; limner enlarges with fewer operations, and those that
    its convolutions by rows save are counted."""
    size = setting.size
    x, t = torch.randn(1, CHANNELS, size, size, device="meta"), torch.zeros(1, device="meta")
    model = limners(size, channels, "plain")
    theirs = forward_flops(Answer(model.to_diffusers().unet.to("meta")), (x, t.long()))
    own = forward_flops(model.network.to("meta"), (x, t, Condition()))
    return {
        "limner": Contestant(painting_limners, (channels, "plain", setting), own),
        "diffusers": Contestant(painting_the_same, (channels, setting), theirs),
    }


KINDS = {"FLOPs": at_equal_flops, "networks": at_equal_networks}


def alone(network: nn.Module, paint: Call, dtype: torch.dtype) -> tuple[Call, float]:
    """The network's widest 3 x 3 convolution, forward, in the type, and its FLOPs."""
    layer, shape = widest(network, paint)
    last = is_channels_last(layer.weight)
    layout = torch.channels_last if last else torch.contiguous_format
    like = nn.Conv2d(layer.in_channels, layer.out_channels, 3, layer.stride, 1, bias=False)
    like = like.to(dtype, memory_format=layout)
    x = torch.randn(shape, dtype=dtype).to(memory_format=layout)

    def forward() -> None:
        with torch.inference_mode():
            like(x)

    return forward, 2 * 9 * layer.in_channels * like(x).numel()


def compare(kind: str, channels: Widths, setting: Setting, rounds: int) -> None:
    """Time all and the convolutions in turns, and print the table."""
    found = KINDS[kind](channels, setting)
    once = setting._replace(steps=1)
    convolutions = {
        name: alone(*c.make(*c.given[:-1], once), getattr(torch, setting.dtype))
        for name, c in found.items()
    }
    calls = {
        name: calling(c.make, *c.given) if name == "limner" else apart(calling, c.make, *c.given)
        for name, c in found.items()
    }
    calls |= {f"conv of {name}": call for name, (call, _) in convolutions.items()}
    times = interleaved(calls, rounds, seconds=1.0)
    rows = []
    for name, c in found.items():
        rate = setting.batch / statistics.median(times[name])
        speed = rate * setting.steps * c.flops
        peak = convolutions[name][1] / statistics.median(times[f"conv of {name}"])
        rows.append(
            (
                name,
                f"{rate:.1f}",
                ratio(times[name], times["limner"]),
                f"{speed / 1e9:.0f}",
                f"{peak / 1e9:.0f}",
                f"{speed / peak:.0%}",
            )
        )
    equal = f"equal FLOPs to {TOLERANCE:.0%}" if kind == "FLOPs" else "equal networks"
    show(
        f"{setting.size} x {setting.size}, batch {setting.batch}, {setting.steps} steps, "
        f"{setting.dtype}, {equal}, {torch.get_num_threads()} threads, {rounds} rounds",
        ("", "img/s", "limner is", "GFLOP/s", "conv", "of conv"),
        rows,
    )


def main() -> None:
    summary, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--equal", nargs="+", choices=tuple(KINDS), default=tuple(KINDS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128])
    dtypes = ("float32", "bfloat16")
    parser.add_argument("--dtypes", nargs="+", choices=dtypes, default=dtypes)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    for kind in args.equal:
        for size in args.sizes:
            for dtype in args.dtypes:
                setting = Setting(size, args.batch, args.steps, dtype)
                compare(kind, tuple(args.channels), setting, args.rounds)


if __name__ == "__main__":
    main()
