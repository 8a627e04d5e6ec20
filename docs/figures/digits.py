"""Draw classes at several guidance scales, for the page on diffusion, from two runs:

    limner train recipes/diffusion/ddpm-mnist.toml --run runs/ddpm-mnist
    limner train recipes/diffusion/classifier-mnist.toml --run runs/classifier-mnist
    python docs/figures/digits.py runs/ddpm-mnist runs/classifier-mnist

All pictures use the seed 0 and 20 steps of `dpm++`.
"""

import sys

import torch
from labelled import save_sheet

from limner.commands.request import SamplingRequest
from limner.commands.sheets.sample import paint_sheet

SCALES = 0.0, 1.0, 2.0, 4.0, 8.0


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit("pass two runs: python docs/figures/digits.py DDPM CLASSIFIER")
    rows, labels = [], []
    for guide, run in zip(("classifier-free", "by a classifier"), sys.argv[1:]):
        for scale in SCALES:
            options = {"sampler": "dpm++", "steps": 20, "scale": scale}
            sheet, _ = paint_sheet(SamplingRequest(model=run, labels=("all",), sampler=options))
            rows.append(sheet.images)
            labels.append(f"{guide}, {scale:g}")
    columns = [str(i) for i in range(len(rows[0]))]
    save_sheet(torch.cat(rows).expand(-1, 3, -1, -1), "classes-by-scale", labels, columns, 2)


if __name__ == "__main__":
    main()
