"""What a control paints of hints, by its run:

    limner train recipes/flows/scenes32.toml --run runs/scenes32
    limner train recipes/diffusion/control-scenes32.toml --run runs/control-scenes32
    python docs/figures/control.py runs/control-scenes32

The edges of the first eight test scenes, the first draws of two seeds that follow them, and of the
same seeds without hints.
"""

import sys

import torch
from labelled import labelled

from limner import Condition, open_data
from limner.commands.wish import Wish, open_model
from limner.contract.image import to_uint8
from limner.diffusion.controlnet import ControlNet

SHOWN = 8
SCENES = {"vocabulary": 6, "style": "flat", "skills": "single=2,two=1", "text": False}


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("give a run: python docs/figures/control.py runs/control-scenes32")
    model, _ = open_model(Wish(model=sys.argv[1]), "cpu")
    assert isinstance(model, ControlNet)
    numbers = torch.arange(SHOWN)
    data = open_data("scenes", size=model.spec.height, split="test", hint="edges", **SCENES)
    hints = data.hints(numbers, numbers, 0)
    assert hints is not None
    rows = [hints.expand(-1, 3, -1, -1)]
    for c in (Condition(image=hints), Condition()):
        rows += [model.sample(SHOWN, c, seed=[seed] * SHOWN) for seed in (0, 1)]
    told = ["edges", "seed 0", "seed 1", "without, 0", "without, 1"]
    labelled(to_uint8(torch.cat(rows)), "control", told, [""] * SHOWN, scale=2)


if __name__ == "__main__":
    main()
