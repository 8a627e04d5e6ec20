"""How fast is sampling, compared with diffusers' pipeline and denoising-diffusion-pytorch's loop?

    pip install "limner[bench]"
    python benchmarks/sampling.py
    python benchmarks/sampling.py --sizes 32 --steps 50
    python benchmarks/sampling.py --equal networks --threads 1

Each paints a batch of unlabelled RGB pictures with deterministic DDIM steps and a network with
random weights. At equal FLOPs per picture and step (training.py says how widths are chosen):

    limner      `DDPM.sample(sampler="ddim")`, its network on patches
    diffusers   `DDIMPipeline`, without its progress bar and its conversion to files
    ddp         `GaussianDiffusion.ddim_sample` of denoising-diffusion-pytorch

With equal networks, which have the same layers and weights:

    limner      `DDPM.sample(sampler="ddim")` with `model.network=plain`
    diffusers   `DDIMPipeline` with the `UNet2DModel` that `limner export` makes of it

limner keeps freed memory, as the command line does; each peer paints in its own process, with the
default settings of the C library's allocator.

How to read it: `img/s` are finished pictures per second, medians over the rounds. `limner is` says
how many times as fast as this row limner is: median (smallest-largest of the rounds). `GFLOP/s` is
the same rate in arithmetic. `conv` is the GFLOP/s of the network's widest 3 x 3 convolution
alone, forward, with the same batch, type and memory layout, in the same rounds. `of conv` is
`GFLOP/s` divided by `conv`.
"""

import math
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from timing import Call, count, options_parser, ratio, run_in_process, show, time_interleaved
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from limner import Condition, ImageSpec, build
from limner.diffusion.ddpm import DDPM
from limner.runtime.allocator import keep_freed_memory
from training import (
    CHANNELS,
    TOLERANCE,
    Widths,
    is_channels_last,
    matched_widths,
    widest_convolution,
)


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


def limner_ddpm(size: int, channels: Widths, network: str = "patches") -> DDPM:
    model = build("ddpm", ImageSpec(CHANNELS, size, size), channels=channels, network=network)
    assert isinstance(model, DDPM)
    return model.eval()


def diffusers_unet(size: int, widths: Widths) -> nn.Module:
    from diffusers.models.unets.unet_2d import UNet2DModel

    down = ("DownBlock2D",) * (len(widths) - 1) + ("AttnDownBlock2D",)
    return UNet2DModel(
        sample_size=size,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=down,
        up_block_types=tuple(block.replace("Down", "Up") for block in reversed(down)),
        norm_num_groups=math.gcd(32, *widths),
    )


def ddp_unet(widths: Widths) -> nn.Module:
    from denoising_diffusion_pytorch import Unet

    return Unet(widths[0], dim_mults=tuple(width // widths[0] for width in widths))


class TensorOutput(nn.Module):
    """A network of diffusers that returns only the tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the output tensor."""
        return self.network(x, t, return_dict=False)[0]


Painter = tuple[nn.Module, Call]


def limner_painter(channels: Widths, network: str, setting: Setting) -> Painter:
    model = limner_ddpm(setting.size, channels, network)
    return model.network, lambda: model.sample(setting.batch, sampler="ddim", steps=setting.steps)


def pipeline_painter(unet: Any, setting: Setting) -> Painter:
    from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    pipeline = DDIMPipeline(unet.eval(), DDIMScheduler(num_train_timesteps=1000))
    pipeline.set_progress_bar_config(disable=True)
    options: Any = {"num_inference_steps": setting.steps, "output_type": "np"}
    return unet, lambda: pipeline(setting.batch, **options)


def diffusers_painter(widths: Widths, setting: Setting) -> Painter:
    return pipeline_painter(diffusers_unet(setting.size, widths), setting)


def exported_painter(channels: Widths, setting: Setting) -> Painter:
    unet = limner_ddpm(setting.size, channels, "plain").to_diffusers().unet
    return pipeline_painter(unet, setting)


def ddp_painter(widths: Widths, setting: Setting) -> Painter:
    from denoising_diffusion_pytorch import GaussianDiffusion

    network = ddp_unet(widths)
    diffusion = GaussianDiffusion(
        network, image_size=setting.size, sampling_timesteps=setting.steps, ddim_sampling_eta=0.0
    )
    return network, lambda: diffusion.sample(setting.batch)


def paint_call(make: Callable[..., Painter], *args: Any) -> Call:
    """Return a call that paints a batch in the setting's type."""
    _, paint = make(*args)
    dtype = getattr(torch, args[-1].dtype)

    def paint_in_dtype() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            paint()

    return paint_in_dtype


@dataclass(frozen=True)
class Contestant:
    """A function that makes a painter, its arguments, and the FLOPs of one evaluation for one
    picture.
    """

    make: Callable[..., Painter]
    args: tuple
    flops: float


def at_equal_flops(channels: Widths, setting: Setting) -> dict[str, Contestant]:
    """Return the three contestants with their own networks."""
    size = setting.size
    x, t = torch.randn(1, CHANNELS, size, size, device="meta"), torch.zeros(1, device="meta")
    with torch.device("meta"):  # `matched_widths` counts forward and backward passes
        limner_flops = forward_flops(limner_ddpm(size, channels).network, (x, t, Condition()))
        levels = len(channels)
        widths, diffusers_flops = matched_widths(
            lambda w: TensorOutput(diffusers_unet(size, w)), (x, t), 3 * limner_flops, levels
        )
        ddp_widths, ddp_flops = matched_widths(
            ddp_unet, (x, t), 3 * limner_flops, levels, growths=(2.0,)
        )
    return {
        "limner": Contestant(limner_painter, (channels, "patches", setting), limner_flops),
        "diffusers": Contestant(diffusers_painter, (widths, setting), diffusers_flops / 3),
        "ddp": Contestant(ddp_painter, (ddp_widths, setting), ddp_flops / 3),
    }


def at_equal_networks(channels: Widths, setting: Setting) -> dict[str, Contestant]:
    """Return two contestants with the same layers and weights. limner's upsampling needs fewer
    operations; the operations that its convolutions by rows save are counted.
    """
    size = setting.size
    x, t = torch.randn(1, CHANNELS, size, size, device="meta"), torch.zeros(1, device="meta")
    model = limner_ddpm(size, channels, "plain")
    diffusers_flops = forward_flops(
        TensorOutput(model.to_diffusers().unet.to("meta")), (x, t.long())
    )
    limner_flops = forward_flops(model.network.to("meta"), (x, t, Condition()))
    return {
        "limner": Contestant(limner_painter, (channels, "plain", setting), limner_flops),
        "diffusers": Contestant(exported_painter, (channels, setting), diffusers_flops),
    }


KINDS = {"FLOPs": at_equal_flops, "networks": at_equal_networks}


def convolution_call(network: nn.Module, paint: Call, dtype: torch.dtype) -> tuple[Call, float]:
    """Return a forward pass of the network's widest 3 x 3 convolution, and its FLOPs."""
    layer, shape = widest_convolution(network, paint)
    channels_last = is_channels_last(layer.weight)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    convolution = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1, bias=False)
    convolution.stride = layer.stride
    convolution.to(dtype).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    x = torch.randn(shape, dtype=dtype).to(memory_format=layout)

    def forward() -> None:
        with torch.inference_mode():
            convolution(x)

    return forward, 2 * 9 * layer.in_channels * convolution(x).numel()


def compare(kind: str, channels: Widths, setting: Setting, rounds: int) -> None:
    """Time all and the convolutions in turns, and print the table."""
    contestants = KINDS[kind](channels, setting)
    one_step = setting._replace(steps=1)
    convolutions = {
        name: convolution_call(*c.make(*c.args[:-1], one_step), getattr(torch, setting.dtype))
        for name, c in contestants.items()
    }
    calls = {
        name: paint_call(c.make, *c.args)
        if name == "limner"
        else run_in_process(paint_call, c.make, *c.args)
        for name, c in contestants.items()
    }
    calls |= {f"conv of {name}": call for name, (call, _) in convolutions.items()}
    times = time_interleaved(calls, rounds, seconds=1.0)
    rows = []
    for name, c in contestants.items():
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
    parser = options_parser(__doc__)
    parser.add_argument("--equal", nargs="+", choices=tuple(KINDS), default=tuple(KINDS))
    parser.add_argument("--sizes", type=count, nargs="+", default=[16, 32])
    parser.add_argument("--batch", type=count, default=64)
    parser.add_argument("--steps", type=count, default=20)
    parser.add_argument("--channels", type=count, nargs="+", default=[64, 128])
    dtypes = ("float32", "bfloat16")
    parser.add_argument("--dtypes", nargs="+", choices=dtypes, default=dtypes)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--threads", type=count, default=torch.get_num_threads())
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
