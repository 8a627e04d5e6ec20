"""Draw all families on one data set: the first draws of some runs, one row each.

    python docs/figures/families.py runs/pixelcnn runs/vae runs/glow runs/ddpm-mnist

Pictures use the seeds 0 to 9, the classes 0 to 9 if the model has classes, and the sampler options
of the recipe.
"""

import sys

import torch
from labelled import save_sheet

from limner import Condition
from limner.commands.request import SamplingRequest, open_model
from limner.contract.image import to_uint8

COLUMNS = 10


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit("pass runs of one data set: python docs/figures/families.py RUN ...")
    rows, labels = [], []
    for run in sys.argv[1:]:
        model, options = open_model(SamplingRequest(model=run), "cpu")
        classes = torch.arange(COLUMNS) if model.spec.labels else None
        x = model.sample(COLUMNS, Condition(label=classes), seed=0, **options)
        rows.append(to_uint8(x))
        labels.append(model.name)
    save_sheet(torch.cat(rows).expand(-1, 3, -1, -1), "families", labels, [""] * COLUMNS, 2)


if __name__ == "__main__":
    main()
