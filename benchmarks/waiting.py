"""How long does training wait for pictures that are decoded each time?

    python benchmarks/waiting.py
    python benchmarks/waiting.py --threads 4 --channels 128 256 256

Shards of JPEG files of 256 x 256 (enlarged bundled emoji) are written to a temporary folder and
trained on at 64 x 64; none are kept in memory. How to read it:

    decode      milliseconds to decode a picture, in one thread alone
    step        milliseconds of a training step
    waits       share of a step during which the loop waits for its batch; other threads prepare the
                batch during the previous step; the share should be 3 % at most
    in memory   the same step with pictures that are already decoded
"""

import argparse
import io
import os
import statistics
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from timing import count, options_parser, show

from limner import build
from limner.contract.image import Batch
from limner.data import Stream, open_data
from limner.training.loop import Loop
from limner.training.options import TrainOptions


def write_shards(folder: Path, shards: int, shard_size: int, side: int) -> None:
    data = open_data("emoji", size=128)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as archive:
            for i in range(shard * shard_size, (shard + 1) * shard_size):
                pixels = data.pixels(torch.tensor([i % len(data)]))[0].permute(1, 2, 0).numpy()
                image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
                image.save(file := io.BytesIO(), "JPEG", quality=90)
                member = tarfile.TarInfo(f"{i:06}.jpg")
                member.size = file.tell()
                file.seek(0)
                archive.addfile(member, file)


def time_steps(stream: Stream, args: argparse.Namespace) -> tuple[float, float]:
    """Return the median seconds of a step, and of its wait for the batch."""
    model = build("ddpm", stream.dataset.spec, channels=tuple(args.channels))
    options = TrainOptions(steps=10**6, batch=args.batch)
    loop = Loop(model, stream.batch, options)
    next_batch, waits = loop._ahead, list[float]()

    def timed_batch(first: int, n: int) -> Batch:
        start = time.perf_counter()
        batch = next_batch(first, n)
        waits[-1] += time.perf_counter() - start
        return batch

    loop._ahead = cast(Any, timed_batch)
    step_seconds = []
    for _ in range(args.steps + 2):
        waits.append(0.0)
        start = time.perf_counter()
        loop.advance()
        step_seconds.append(time.perf_counter() - start)
    return statistics.median(step_seconds[2:]), statistics.median(waits[2:])


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument(
        "--side", type=count, default=256, help="side of the pictures in files, in pixels"
    )
    parser.add_argument(
        "--size", type=count, default=64, help="side of the pictures in training, in pixels"
    )
    parser.add_argument("--batch", type=count, default=32)
    parser.add_argument("--channels", type=count, nargs="+", default=[64, 128])
    parser.add_argument("--steps", type=count, default=15, help="steps to time")
    parser.add_argument("--threads", type=count, default=1, help="CPU threads of the model")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIMNER_CACHE"] = f"{folder}/cache"
        write_shards(Path(folder), 8, 128, args.side)
        decoded_each_time = open_data(f"wds:{folder}", size=args.size, memory=0)
        start = time.process_time()
        decoded_each_time.pixels(torch.arange(256))
        decode = (time.process_time() - start) / 256
        in_memory = open_data(f"wds:{folder}", size=args.size)
        in_memory.pixels(torch.arange(len(in_memory)))
        step, wait = time_steps(Stream(decoded_each_time), args)
        step_in_memory, _ = time_steps(Stream(in_memory), args)
        row = (f"{1000 * s:.1f}" for s in (decode, step, step_in_memory))
        decode_text, step_text, in_memory_text = row
        title = f"{args.side} to {args.size} pixels, batch {args.batch}, {os.cpu_count()} cores"
        cells = ("ddpm", decode_text, step_text, f"{wait / step:.2%}", in_memory_text)
        show(title, ("", "decode", "step", "waits", "in memory"), [cells])


if __name__ == "__main__":
    main()
