"""How fast is sampling, beside diffusers' pipeline and denoising-diffusion-pytorch's loop?

    pip install "limner[bench]"
    python benchmarks/sampling.py
    python benchmarks/sampling.py --sizes 32 --steps 50

Each paints a batch of unlabelled RGB pictures with a network of random weights by deterministic
DDIM steps, all of equally many FLOPs a picture and step (see training.py on how widths are chosen):

    limner      `DDPM.sample(sampler="ddim")`
    diffusers   `DDIMPipeline`, without its progress bar and its conversion to files
    ddp         `GaussianDiffusion.ddim_sample`

How to read it: `img/s` are finished pictures a second, medians over the rounds; `limner is` so many
times as fast as this row: median (least-greatest of the rounds); `GFLOP/s` what that is in
arithmetic; `conv` that of the network's widest 3 x 3 convolution alone, forward, at the same batch,
type and memory layout, in the same rounds; `of conv` the first over the second.
"""

import argparse
import math
import os
import statistics
from dataclasses import dataclass

import torch
from timing import Call, interleaved, ratio, show
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training import CHANNELS, TOLERANCE, is_channels_last, matched, widest

from limner import Condition, ImageSpec, build
from limner.model import GenerativeModel


def forward_flops(network: nn.Module, inputs: tuple) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return counter.get_total_flops()


@dataclass(frozen=True)
class Contestant:
    """What paints a batch, its network, and what one evaluation for one picture costs."""

    paint: Call
    network: nn.Module
    flops: float


def contestants(
    size: int, batch: int, steps: int, channels: tuple[int, ...]
) -> dict[str, Contestant]:
    """The three, at equal FLOPs."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    spec = ImageSpec(CHANNELS, size, size)
    levels = len(channels)
    model = build("ddpm", spec, channels=channels)
    assert isinstance(model, GenerativeModel)
    x, t = torch.randn(1, CHANNELS, size, size, device="meta"), torch.zeros(1, device="meta")
    with torch.device("meta"):
        own = forward_flops(build("ddpm", spec, channels=channels).network, (x, t, Condition()))
    down = ("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",)

    class Plain(UNet2DModel):
        def forward(self, x, t, **options):
            return super().forward(x, t, return_dict=False)[0]

    def theirs(widths: tuple[int, ...], kind: type[UNet2DModel] = UNet2DModel) -> nn.Module:
        return kind(
            sample_size=size,
            block_out_channels=widths,
            layers_per_block=1,
            down_block_types=down,
            up_block_types=tuple(block.replace("Down", "Up") for block in reversed(down)),
            norm_num_groups=math.gcd(32, *widths),
        )

    def other(widths: tuple[int, ...]) -> nn.Module:
        return Unet(widths[0], dim_mults=tuple(width // widths[0] for width in widths))

    with torch.device("meta"):  # `matched` counts forward and backward passes
        widths, full = matched(lambda w: theirs(w, Plain), (x, t), 3 * own, levels)
        narrow, least = matched(other, (x, t), 3 * own, levels, growths=(2.0,))
    unet, plain = theirs(widths), other(narrow)
    pipeline = DDIMPipeline(unet, DDIMScheduler(num_train_timesteps=1000))
    pipeline.set_progress_bar_config(disable=True)
    diffusion = GaussianDiffusion(
        plain, image_size=size, sampling_timesteps=steps, ddim_sampling_eta=0.0
    )
    return {
        "limner": Contestant(
            lambda: model.sample(batch, sampler="ddim", steps=steps), model.network, own
        ),
        "diffusers": Contestant(
            lambda: pipeline(batch, num_inference_steps=steps, output_type="np"), unet, full / 3
        ),
        "ddp": Contestant(lambda: diffusion.sample(batch), plain, least / 3),
    }


def alone(contestant: Contestant, dtype: torch.dtype) -> tuple[Call, float]:
    """The network's widest 3 x 3 convolution, forward, in the type, and its FLOPs."""
    layer, shape = widest(contestant.network, contestant.paint)
    last = is_channels_last(layer.weight)
    layout = torch.channels_last if last else torch.contiguous_format
    like = nn.Conv2d(layer.in_channels, layer.out_channels, 3, layer.stride, 1, bias=False)
    like = like.to(dtype, memory_format=layout)
    x = torch.randn(shape, dtype=dtype).to(memory_format=layout)

    def forward() -> None:
        with torch.inference_mode():
            like(x)

    return forward, 2 * 9 * layer.in_channels * like(x).numel()


def compare(args: argparse.Namespace, size: int, dtype: torch.dtype) -> None:
    """Time the three and the convolutions in turns, and print the table."""
    found = contestants(size, args.batch, args.steps, tuple(args.channels))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        convolutions = {name: alone(c, dtype) for name, c in found.items()}
        calls = {name: c.paint for name, c in found.items()}
        calls |= {f"conv of {name}": call for name, (call, _) in convolutions.items()}
        times = interleaved(calls, args.rounds, seconds=1.0)
    rows = []
    for name, c in found.items():
        rate = args.batch / statistics.median(times[name])
        speed = rate * args.steps * c.flops
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
    show(
        f"{size} x {size}, batch {args.batch}, {args.steps} steps, {dtype}, equal FLOPs to "
        f"{TOLERANCE:.0%}, {torch.get_num_threads()} threads, {args.rounds} rounds",
        ("", "img/s", "limner is", "GFLOP/s", "conv", "of conv"),
        rows,
    )


def main() -> None:
    summary, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128])
    dtypes = ("float32", "bfloat16")
    parser.add_argument("--dtypes", nargs="+", choices=dtypes, default=dtypes)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    for size in args.sizes:
        for dtype in args.dtypes:
            torch.manual_seed(0)
            compare(args, size, getattr(torch, dtype))


if __name__ == "__main__":
    main()
