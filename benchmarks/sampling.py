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
times as fast as this row: median (least-greatest of the rounds).
"""

import argparse
import math
import os
import statistics

import torch
from timing import Call, interleaved, ratio, show
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training import CHANNELS, TOLERANCE, matched

from limner import Condition, ImageSpec, build
from limner.model import GenerativeModel


def forward_flops(network: nn.Module, inputs: tuple) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return counter.get_total_flops()


def contestants(size: int, batch: int, steps: int, channels: tuple[int, ...]) -> dict[str, Call]:
    """One call that paints a batch, for each."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    spec = ImageSpec(CHANNELS, size, size)
    levels = len(channels)
    model = build("ddpm", spec, channels=channels)
    assert isinstance(model, GenerativeModel)
    x, t = torch.randn(1, CHANNELS, size, size, device="meta"), torch.zeros(1, device="meta")
    with torch.device("meta"):
        flops = 3 * forward_flops(
            build("ddpm", spec, channels=channels).network, (x, t, Condition())
        )
    down = ("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",)

    def theirs(widths: tuple[int, ...]) -> nn.Module:
        return UNet2DModel(
            sample_size=size,
            block_out_channels=widths,
            layers_per_block=1,
            down_block_types=down,
            up_block_types=tuple(block.replace("Down", "Up") for block in reversed(down)),
            norm_num_groups=math.gcd(32, *widths),
        )

    class Plain(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x, t):
            return self.network(x, t, return_dict=False)[0]

    def other(widths: tuple[int, ...]) -> nn.Module:
        return Unet(widths[0], dim_mults=tuple(width // widths[0] for width in widths))

    with torch.device("meta"):
        widths, _ = matched(lambda w: Plain(theirs(w)), (x, t), flops, levels)
        narrow, _ = matched(other, (x, t), flops, levels, growths=(2.0,))
    pipeline = DDIMPipeline(theirs(widths), DDIMScheduler(num_train_timesteps=1000))
    pipeline.set_progress_bar_config(disable=True)
    diffusion = GaussianDiffusion(
        other(narrow), image_size=size, sampling_timesteps=steps, ddim_sampling_eta=0.0
    )
    return {
        "limner": lambda: model.sample(batch, sampler="ddim", steps=steps),
        "diffusers": lambda: pipeline(batch, num_inference_steps=steps, output_type="np"),
        "ddp": lambda: diffusion.sample(batch),
    }


def main() -> None:
    summary, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    for size in args.sizes:
        torch.manual_seed(0)
        calls = contestants(size, args.batch, args.steps, tuple(args.channels))
        found = interleaved(calls, args.rounds, seconds=1.0)
        show(
            f"{size} x {size}, batch {args.batch}, {args.steps} steps, float32, equal FLOPs to "
            f"{TOLERANCE:.0%}, {torch.get_num_threads()} threads, {args.rounds} rounds",
            ("", "img/s", "limner is"),
            [
                (
                    name,
                    f"{args.batch / statistics.median(times):.1f}",
                    ratio(times, found["limner"]),
                )
                for name, times in found.items()
            ],
        )


if __name__ == "__main__":
    main()
