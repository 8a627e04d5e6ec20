"""How much faster than the prompt model is the model that was distilled from it?

    python benchmarks/few_steps.py

Both paint batches with the same prompts and seeds; all contestants take turns.

    emoji-fast       two steps of the distilled first stage, two of the second: 4 evaluations
    dpm++ S + U      `emoji` with S guided steps, which need two evaluations each, and U steps of
                     the second stage
    ddim 50 + 20     the same with the sampler that is often used for comparison

How to read it: `img/s` are those of the fastest round. `emoji-fast is` says how many times as fast
as this row `emoji-fast` is, from the seconds of each round: median (smallest-largest). Seconds are
those that the process computes, so that one thread can be timed while other programs run.
"""

import time
from functools import partial
from typing import Any

import torch
from timing import Call, count, options_parser, ratio, show, time_interleaved

from limner.commands.request import SamplingRequest, open_model

PROMPTS = "a red apple", "a dog", "a crying face", "a pizza", "an astronaut", "a snowman", "a bus"
FAST = "emoji-fast"
DDIM = {"sampler": "ddim", "upsampler_sampler": "ddim"}
UNCLEANED = {"level": 0.1, "clean": 0}  # as `emoji-fast` paints, and `emoji` when it was measured
OTHERS: dict[str, dict[str, Any]] = {
    "dpm++ 2 + 2": UNCLEANED | {"steps": 2, "upsampler_steps": 2},
    "dpm++ 3 + 2": UNCLEANED | {"steps": 3, "upsampler_steps": 2},
    "dpm++ 10 + 5": UNCLEANED | {"steps": 10, "upsampler_steps": 5},
    "ddim 50 + 20": UNCLEANED | {"steps": 50, "upsampler_steps": 20} | DDIM,
}


def paint_call(model: str, batch: int, options: dict[str, Any]) -> Call:
    """Return a call that paints a batch with the model's own settings, except for some options."""
    request = SamplingRequest(
        model, tuple(PROMPTS[i % len(PROMPTS)] for i in range(batch)), sampler=options
    )
    loaded, sampler_options = open_model(request)
    return partial(loaded.sample, batch, request.condition(loaded.spec), **sampler_options)


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--batch", type=count, default=16)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--threads", type=count, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    calls = {FAST: paint_call(FAST, args.batch, {})}
    calls |= {name: paint_call("emoji", args.batch, options) for name, options in OTHERS.items()}
    seconds = time_interleaved(calls, args.rounds, 1.0, time.process_time)
    rows = [
        (name, f"{args.batch / min(times):.1f}", ratio(times, seconds[FAST]))
        for name, times in seconds.items()
    ]
    title = f"64 x 64, batch {args.batch}, {args.threads} threads, float32"
    show(title, ("", "img/s", f"{FAST} is"), rows)


if __name__ == "__main__":
    main()
