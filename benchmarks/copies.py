"""How many training pictures does a model need before it stops reproducing them?

    python benchmarks/copies.py [NAME ...] [--digits 100 1000 10000] [--minutes 3] [--n 200]

A model of each family is trained on the first digits of MNIST, as in `one_clock.py`: with its
recipe and a constant learning rate, for --minutes minutes of one core. Then its generated pictures
are compared with the digits that it was trained on; so are digits that it never saw. A picture is a
copy if the nearest training picture, shifted by up to 2 pixels, is at most a third as far away as
the second nearest (`limner.evaluate.metrics.memorisation`).
"""

import time
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from one_clock import CONTESTANTS, ROOT, recipe_of
from timing import count, options_parser, positive
from torch import Tensor

from limner import Condition, open_data
from limner.contract.image import to_uint8
from limner.contract.model import GenerativeModel
from limner.data.dataset import Dataset
from limner.evaluate.metrics.memorisation import memorisation
from limner.training.loop import Loop
from limner.training.run import train

NAMES = "pixelcnn", "vae", "wgan-gp", "flow-matching", "edm"
HELD_OUT = 500


class First(Dataset):
    """The first pictures of a data set.

    Args:
        data: the whole data set.
        n: number of pictures.
    """

    def __init__(self, data: Dataset, n: int) -> None:
        self.data, self.n = data, n
        self.spec, self.source = data.spec, data.source
        self.digest = f"{data.digest} first {n}"
        self.labels = None if data.labels is None else data.labels[:n]

    def __len__(self) -> int:
        return self.n

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """Return the pictures of the whole data set."""
        return self.data.pixels(indices)


def measure_copies(name: str, digits: int, minutes: float, n: int, runs: Path) -> str:
    """Train a model on a few digits; return a line with the share of its generated pictures, and of
    new digits, that are copies of training pictures.
    """
    recipe = recipe_of(name, runs)
    options = {key: value for key, value in recipe.data.items() if key != "source"}
    training_data = First(open_data("mnist", **options), digits)
    start = time.process_time()
    models: list[GenerativeModel] = []

    def stop(loop: Loop, logs: dict[str, float]) -> bool:
        is_over = time.process_time() - start >= 60 * minutes
        if is_over:
            model = loop.calibrated_model()
            assert isinstance(model, GenerativeModel)
            models.append(model)
        return is_over

    run = runs / f"{name}-{digits}"
    train(recipe, run, dataset=training_data, device="cpu", on_step=stop)
    [model] = models
    train_pixels = training_data.pixels(torch.arange(digits))
    classes = torch.arange(n) % 10 if model.spec.labels else None
    generated = model.sample(
        n, Condition(label=classes), seed=0, **model.sampler_options(recipe.sampler)
    )
    held_out = open_data("mnist", split="test").pixels(torch.arange(HELD_OUT))
    shares = [
        memorisation(pictures, train_pixels).share_of_copies
        for pictures in (to_uint8(generated), held_out)
    ]
    return f"{name:15} {digits:6,} digits: {shares[0]:6.1%} copied, new digits {shares[1]:.1%}"


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument(
        "names", nargs="*", help=f"of {', '.join(CONTESTANTS)}; default: {', '.join(NAMES)}"
    )
    parser.add_argument("--digits", type=count, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--minutes", type=positive, default=3)
    parser.add_argument("--n", type=count, default=200)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "copies")
    args = parser.parse_args()
    for name in args.names:
        if name not in CONTESTANTS:
            parser.error(f"unknown model '{name}'; choose from {', '.join(CONTESTANTS)}")
    torch.set_num_threads(1)
    for name in args.names or NAMES:
        for digits in args.digits:
            print(measure_copies(name, digits, args.minutes, args.n, args.runs), flush=True)


if __name__ == "__main__":
    main()
