"""How much does a control cost, for one evaluation and for painting, compared with its base alone?

    python benchmarks/control.py                 # scenes-sketch
    python benchmarks/control.py RUN --rounds 20

Seconds are those that the process computes, so that other programs have little influence.
"""

from time import process_time

import torch
from timing import Call, count, options_parser, ratio, show, time_interleaved

from limner import Condition, load, text_condition
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
    """Return the calls to time, each for the base alone and with the control."""
    hint_spec = model.spec.hint
    assert hint_spec is not None
    text = (
        text_condition(model.spec, ["a red apple and a cat"] * N).text if model.spec.text else None
    )
    without_hint, with_hint = (
        Condition(text=text),
        Condition(text=text, image=torch.rand(N, *hint_spec.shape) * 2 - 1),
    )
    controlled_base, hinted = model.controlled_base(with_hint)
    base, controlled = denoiser_of(model.base), denoiser_of(controlled_base)
    x, t = torch.randn(N, *base.spec.shape), torch.tensor(0.5, dtype=torch.float64)
    return {
        "evaluation": (lambda: base(x, t, without_hint), lambda: controlled(x, t, hinted)),
        "painting": (
            lambda: model.sample(N, without_hint, **PAINTING),
            lambda: model.sample(N, with_hint, **PAINTING),
        ),
    }


@torch.no_grad()
def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("model", nargs="?", default="scenes-sketch")
    parser.add_argument("--rounds", type=count, default=9)
    parser.add_argument("--threads", type=count, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load(args.model)
    assert isinstance(model, ControlNet)
    rows: list[tuple[str, ...]] = []
    for name, (base, controlled) in pairs(model).items():
        operations_ratio = operations(controlled) / operations(base)
        times = time_interleaved(
            {"alone": base, "controlled": controlled}, args.rounds, 0.5, process_time
        )
        rows.append((name, f"{operations_ratio:.2f}", ratio(times["controlled"], times["alone"])))
    show(f"{args.model} compared with its base, batch {N}", ("", "operations", "time"), rows)


if __name__ == "__main__":
    main()
