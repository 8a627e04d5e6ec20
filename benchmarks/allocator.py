"""How much faster does keeping freed memory make training on a CPU (limner.runtime.allocator)?

    python benchmarks/allocator.py
    python benchmarks/allocator.py --size 32 --dtype float32

One process trains with the default settings of the C library's allocator; another one keeps its
freed memory. They take turns. How to read it: `img/s` is the median over the rounds; `gain` is the
ratio of the two rates: median (smallest-largest of the rounds).
"""

import argparse
import statistics
import subprocess
import sys

import torch
from timing import count, options_parser, ratio, show, time_call

from limner import Batch, Condition, ImageSpec, build
from limner.runtime.allocator import keep_freed_memory
from limner.training.loop import Loop, TrainOptions

BATCH = 64
STEPS = 20


def images_per_second(size: int, dtype: str) -> float:
    spec = ImageSpec(channels=3, height=size, width=size)
    x = torch.rand(BATCH, *spec.shape) * 2 - 1
    options = TrainOptions.of({"batch": BATCH, "dtype": dtype})
    loop = Loop(build("edm", spec), lambda first, n: Batch(x[:n], Condition()), options)
    for _ in range(5):
        loop.advance()
    return BATCH / time_call(loop.advance, STEPS)


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--size", type=count, default=16)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--only", choices=("usual", "keeping"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        if args.only == "keeping":
            keep_freed_memory()
        print(images_per_second(args.size, args.dtype))
        return
    rates: dict[str, list[float]] = {"usual": [], "keeping": []}
    for _ in range(args.rounds):
        for name, values in rates.items():
            command = [sys.executable, __file__, "--only", name]
            command += ["--size", str(args.size), "--dtype", args.dtype]
            completed = subprocess.run(command, check=True, capture_output=True, text=True)
            values.append(float(completed.stdout))
    show(
        f"{args.size} x {args.size}, {args.dtype}, {torch.get_num_threads()} threads",
        ("", "img/s", "gain"),
        [
            (name, f"{statistics.median(values):,.0f}", ratio(values, rates["usual"]))
            for name, values in rates.items()
        ],
    )


if __name__ == "__main__":
    main()
