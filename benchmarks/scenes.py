"""How fast are scenes composed, compared with decoding the same pictures?

    python benchmarks/scenes.py
    python benchmarks/scenes.py --sizes 128 --count 10_000

It uses one thread. The first pictures are timed separately, because sprites are still read and
recoloured then. How to read it: the budget is 1,000 pictures per second and core at 64 x 64, and
300 at 128 x 128. For comparison, the last column is the cost of a folder of PNG files with the same
pictures: decoding with Pillow.
"""

import io
import time
from collections.abc import Callable

import torch
from PIL import Image
from timing import count, options_parser, show

from limner.contract.noise import Noise
from limner.data import Dataset, open_data


def rate(call: Callable[[torch.Tensor], object], numbers: range, batch: int = 64) -> float:
    """Return the pictures per second that this process computes."""
    start = time.process_time()
    for first in range(numbers.start, numbers.stop, batch):
        call(torch.arange(first, min(first + batch, numbers.stop)))
    return len(numbers) / (time.process_time() - start)


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--sizes", type=count, nargs="+", default=[64, 128])
    parser.add_argument(
        "--warm", type=int, default=15_000, help="pictures to compose before timing starts"
    )
    parser.add_argument("--count", type=count, default=3_000, help="pictures to time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for size in args.sizes:
        data = open_data("scenes", size=size)
        first = rate(data.pixels, range(1000))
        rate(data.pixels, range(1000, args.warm))
        later = rate(data.pixels, range(2**20, 2**20 + args.count))

        def write(numbers: torch.Tensor, data: Dataset = data) -> None:
            data.captions(numbers, Noise.sampling(0, len(numbers)))

        text = rate(write, range(2**30, 2**30 + args.count))
        files = []
        for pixels in data.pixels(torch.arange(256)):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file := io.BytesIO(), "PNG")
            files.append(file.getvalue())

        def decode(numbers: torch.Tensor, files: list[bytes] = files) -> None:
            for i in numbers.tolist():
                Image.open(io.BytesIO(files[i % len(files)])).convert("RGB").load()

        decode_rate = rate(decode, range(args.count))
        numbers = (f"{value:,.0f}" for value in (first, later, text, decode_rate))
        rows.append((f"{size} x {size}", *numbers))
    columns = ("size", "first 1,000", "later", "captions only", "PNG decoded")
    show("pictures per second of one core", columns, rows)


if __name__ == "__main__":
    main()
