"""What a control costs: an evaluation and a painting under it, beside those of its base alone.

    python benchmarks/control.py                 # scenes-sketch
    python benchmarks/control.py RUN --rounds 20

Seconds are those of the process, so that other programs count little.
"""

import argparse
from time import process_time

import torch
from timing import Call, interleaved, ratio, show

from limner import Condition, load, prompted
from limner.contract.bundled import find_model
from limner.diffusion.controlnet import ControlNet
from limner.diffusion.frozen_base import denoiser_of
from limner.training.estimate import count_flops

N = 8
PAINTING = {"steps": 12, "scale": 3.0, "sampler": "dpm++"}


def operations(call: Call) -> float:
    with count_flops() as counter:
        call()
    return counter.get_total_flops()


def pairs(model: ControlNet) -> dict[str, tuple[Call, Call]]:
    """What is timed: of the base alone, and under control."""
    known = model.spec.hint
    assert known is not None
    text = prompted(model.spec, ["a red apple and a cat"] * N).text if model.spec.text else None
    alone, steered = Condition(text=text), Condition(text=text, image=torch.randn(N, *known.shape))
    view, hinted = model.controlled_base(steered)
    base, controlled = denoiser_of(model.base), denoiser_of(view)
    x, t = torch.randn(N, *base.spec.shape), torch.tensor(0.5, dtype=torch.float64)
    return {
        "an evaluation": (lambda: base(x, t, alone), lambda: controlled(x, t, hinted)),
        "a painting": (
            lambda: model.sample(N, alone, **PAINTING),
            lambda: model.sample(N, steered, **PAINTING),
        ),
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="scenes-sketch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = load(find_model(asked.model))
    assert isinstance(model, ControlNet)
    rows: list[tuple[str, ...]] = []
    for name, (alone, under) in pairs(model).items():
        counted = operations(under) / operations(alone)
        times = interleaved({"alone": alone, "under": under}, asked.rounds, 0.5, process_time)
        rows.append((name, f"{counted:.2f}", ratio(times["under"], times["alone"])))
    show(f"{asked.model} beside its base, batch {N}", ("", "operations", "time"), rows)


if __name__ == "__main__":
    main()
