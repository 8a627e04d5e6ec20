"""How many training pictures does a model need before it stops giving them back?

    python benchmarks/copies.py [NAME ...] [--digits 100 1000 10000] [--minutes 3] [--n 200]

A model of each family learns the first digits of MNIST, as in `one_clock.py`: by its recipe, at a
constant rate, for so many minutes of one core. Then paintings are compared with the digits that it
learnt from, and so are digits that it never saw. A picture is a copy where the nearest training
picture, shifted by up to 2 pixels, is at most a third as far as the second nearest
(`limner.evaluate.metrics.memorisation`).
"""

import argparse
import time
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from one_clock import CONTESTANTS, ROOT, recipe_of
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
        whole: the data set.
        n: how many.
    """

    def __init__(self, whole: Dataset, n: int) -> None:
        self.whole, self.n = whole, n
        self.spec, self.source = whole.spec, whole.source
        self.digest = f"{whole.digest} first {n}"
        self.labels = None if whole.labels is None else whole.labels[:n]

    def __len__(self) -> int:
        return self.n

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """As those of the whole."""
        return self.whole.pixels(indices)


def copied(name: str, digits: int, minutes: float, n: int, runs: Path) -> str:
    """Train a model of a few digits, and say which shares of paintings and of new digits are
    copies of them.
    """
    recipe = recipe_of(name, runs)
    options = {key: value for key, value in recipe.data.items() if key != "source"}
    few = First(open_data("mnist", **options), digits)
    began = time.process_time()
    seen: list[GenerativeModel] = []

    def stop(loop: Loop, logs: dict[str, float]) -> bool:
        over = time.process_time() - began >= 60 * minutes
        if over:
            model = loop.calibrated()
            assert isinstance(model, GenerativeModel)
            seen.append(model)
        return over

    run = runs / f"{name}-{digits}"
    train(recipe, run, dataset=few, device="cpu", on_step=stop)
    [model] = seen
    train_pixels = few.pixels(torch.arange(digits))
    classes = torch.arange(n) % 10 if model.spec.labels else None
    paintings = model.sample(
        n, Condition(label=classes), seed=0, **model.sampler_options(recipe.sampler)
    )
    new = open_data("mnist", split="test").pixels(torch.arange(HELD_OUT))
    shares = [
        memorisation(pictures, train_pixels).share_of_copies
        for pictures in (to_uint8(paintings), new)
    ]
    return f"{name:15} {digits:6,} digits: {shares[0]:6.1%} copied, of new digits {shares[1]:.1%}"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    asked.add_argument("names", nargs="*", help=f"of {', '.join(CONTESTANTS)}; {', '.join(NAMES)}")
    asked.add_argument("--digits", type=int, nargs="+", default=[100, 1000, 10000])
    asked.add_argument("--minutes", type=float, default=3)
    asked.add_argument("--n", type=int, default=200)
    asked.add_argument("--runs", type=Path, default=ROOT / "runs" / "copies")
    given = asked.parse_args()
    torch.set_num_threads(1)
    for name in given.names or NAMES:
        for digits in given.digits:
            print(copied(name, digits, given.minutes, given.n, given.runs), flush=True)


if __name__ == "__main__":
    main()
