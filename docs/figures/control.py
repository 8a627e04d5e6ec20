"""Draw what the bundled controls make of hints.

    python docs/figures/control.py

The first test scenes, four for each control: the hint, the first draws of three seeds that follow
it, and the first draw of seed 0 without a hint.
"""

import torch
from labelled import save_sheet, shrink

from limner import Condition, open_data, text_condition
from limner.commands.request import SamplingRequest, open_model
from limner.contract.bundled import find_model
from limner.contract.checkpoint import model_file, read_header
from limner.contract.image import Images, to_uint8
from limner.contract.noise import Noise

SHOWN, SEEDS = 4, 3
CONTROLS = ("scenes-sketch", "scenes-layout")


def rows(name: str, first: int) -> tuple[list[str], Images]:
    """Return captions of scenes, and for each the hint and the pictures painted from it."""
    model, options = open_model(SamplingRequest(model=name), "cpu")
    data = open_data(**read_header(model_file(find_model(name))).recipe["data"] | {"split": "test"})
    numbers = torch.arange(first, first + SHOWN)
    hints = data.hints(numbers, numbers, 0)
    captions = data.captions(numbers, Noise.sampling(0, SHOWN))
    assert hints is not None and captions is not None
    text = text_condition(model.spec, captions).text
    columns = [hints.expand(-1, 3, -1, -1)]
    for c, seeds in ((Condition(text=text, image=hints), SEEDS), (Condition(text=text), 1)):
        columns += [model.sample(SHOWN, c, seed=[s] * SHOWN, **options) for s in range(seeds)]
    return captions, torch.stack(columns, 1).flatten(0, 1)


def main() -> None:
    results = [rows(name, i * SHOWN) for i, name in enumerate(CONTROLS)]
    captions = [caption for texts, _ in results for caption in texts]
    columns = ["hint", *(f"seed {seed}" for seed in range(SEEDS)), "seed 0, no hint"]
    save_sheet(to_uint8(torch.cat([x for _, x in results])), "control", captions, columns)
    shrink("control")


if __name__ == "__main__":
    main()
