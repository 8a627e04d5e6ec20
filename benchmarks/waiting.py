"""How long does training wait for pictures that are decoded each time?

    python benchmarks/waiting.py
    python benchmarks/waiting.py --threads 4 --channels 128 256 256

Shards of JPEG files of 256 x 256 (bundled emoji, made larger) are written into a temporary folder
and trained on at 64 x 64, none kept in memory. How to read it:

    decode      milliseconds a picture, of one thread alone
    step        milliseconds a training step
    waits       the share of a step in which the loop waits for its batch, which is made in other
                threads while the step before is computed; 3 % is the most that is good
    in memory   the same step with pictures that are decoded already
"""

import argparse
import io
import os
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from timing import show

from limner import build
from limner.contract.image import Batch
from limner.data import Stream, open_data
from limner.training.loop import Loop
from limner.training.options import TrainOptions


def write_shards(folder: Path, shards: int, each: int, side: int) -> None:
    data = open_data("emoji", size=128)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as archive:
            for i in range(shard * each, (shard + 1) * each):
                pixels = data.pixels(torch.tensor([i % len(data)]))[0].permute(1, 2, 0).numpy()
                image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
                image.save(file := io.BytesIO(), "JPEG", quality=90)
                member = tarfile.TarInfo(f"{i:06}.jpg")
                member.size = file.tell()
                file.seek(0)
                archive.addfile(member, file)


def steps(stream: Stream, args: argparse.Namespace) -> tuple[float, float]:
    """Median seconds of a step, and of its wait for the batch."""
    model = build("ddpm", stream.dataset.spec, channels=tuple(args.channels))
    options = TrainOptions(steps=10**6, batch=args.batch)
    loop = Loop(model, stream.batch, options)
    ahead, waits = loop._ahead, list[float]()

    def timed_batch(first: int, n: int) -> Batch:
        started = time.perf_counter()
        batch = ahead(first, n)
        waits[-1] += time.perf_counter() - started
        return batch

    loop._ahead = timed_batch
    taken = []
    for _ in range(args.steps + 2):
        waits.append(0.0)
        started = time.perf_counter()
        loop.advance()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[2:]), statistics.median(waits[2:])


def main() -> None:
    summary, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=256, help="of the pictures in files")
    parser.add_argument("--size", type=int, default=64, help="of the pictures in training")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--steps", type=int, default=15, help="that are timed")
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIMNER_CACHE"] = f"{folder}/cache"
        write_shards(Path(folder), 8, 128, args.side)
        fresh = open_data(f"wds:{folder}", size=args.size, memory=0)
        started = time.process_time()
        fresh.pixels(torch.arange(256))
        decode = (time.process_time() - started) / 256
        kept = open_data(f"wds:{folder}", size=args.size)
        kept.pixels(torch.arange(len(kept)))
        step, wait = steps(Stream(fresh), args)
        step_kept, _ = steps(Stream(kept), args)
        row = (f"{1000 * s:.1f}" for s in (decode, step, step_kept))
        decoded, taken, in_memory = row
        title = f"{args.side} to {args.size} pixels, batch {args.batch}, {os.cpu_count()} cores"
        cells = ("ddpm", decoded, taken, f"{wait / step:.2%}", in_memory)
        show(title, ("", "decode", "step", "waits", "in memory"), [cells])


if __name__ == "__main__":
    main()
